package admission

// KeepToken is where changes differ from upstream on purpose: the differential specs ask upstream about what comes of it.
var KeepToken = keepToken
