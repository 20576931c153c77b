package app

// AvailableMemory is availableMemory.
var AvailableMemory = availableMemory
