package server

import (
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// collectAt is how much garbage there may be, in percent of what is in use, before it is collected. An API server makes
// much of it for each request: at Go's 100 a quarter of its CPU goes into collecting.
const collectAt = 200

// ConfigureMemory has garbage collected half as often as Go does by default. As memory in use nears half of
// the machine's, it is collected as often as is needed to stay below. GOGC and GOMEMLIMIT in the environment prevail.
func ConfigureMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	var machine unix.Sysinfo_t
	if os.Getenv("GOMEMLIMIT") == "" && unix.Sysinfo(&machine) == nil {
		debug.SetMemoryLimit(int64(machine.Totalram) * int64(machine.Unit) / 2) //nolint:gosec // far below 1<<63
	}
}
