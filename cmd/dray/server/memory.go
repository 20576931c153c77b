package server

import (
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

const (
	// collectAt is how much garbage there may be, in percent of what is in use, before it is collected. An API server
	// makes much of it for each request: at Go's 100, collecting takes up to a quarter of its CPU.
	collectAt = 200
	// spacious is the memory, in bytes, from which a machine has room for that: an empty server takes 240 MB more.
	spacious = 16 << 30
)

// ConfigureMemory has garbage collected half as often as Go does by default, on machines with 16 GiB or more. As memory in
// use nears half of the machine's, it is collected as often as is needed to stay below. GOGC and GOMEMLIMIT in the
// environment prevail.
func ConfigureMemory() {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return
	}
	total := int64(machine.Totalram) * int64(machine.Unit) //nolint:gosec // far below 1<<63
	if total < spacious {
		return
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(total / 2)
	}
}
