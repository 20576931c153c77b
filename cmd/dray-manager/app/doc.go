// Package app is dray-manager: one process that runs every controller against one API server. The command
// dray-manager and the all-in-one dray call it. It holds flags and wiring, and no logic of a controller.
package app
