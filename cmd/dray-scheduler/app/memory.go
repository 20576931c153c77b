package app

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// collectAt is how much garbage there may be, in percent of what is in use, before it is collected. What a scheduler
// keeps, pods and nodes, hardly changes while it decides; at Go's 100 it marks all of that every few hundred pods.
const collectAt = 400

// configureMemory has garbage collected less often than Go does by default, as long as the process stays below half of
// the memory that its container or machine has: beyond that, Go's default would not fit either. GOGC and GOMEMLIMIT in
// the environment prevail.
func configureMemory() {
	available := availableMemory("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
	if available == 0 {
		return
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(available / 2)
	}
}

// availableMemory returns the machine's memory in bytes, or the smallest limit that one of the files holds: a cgroup's
// in its two versions, of which a machine has one. It is 0 when nothing is known.
func availableMemory(limits ...string) int64 {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return 0
	}
	available := int64(machine.Totalram) * int64(machine.Unit) //nolint:gosec // far below 1<<63
	for _, file := range limits {
		text, err := os.ReadFile(file) //nolint:gosec // the callers name the files
		if err != nil {
			continue
		}
		// "max" is no number.
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && limit > 0 {
			available = min(available, limit)
		}
	}
	return available
}
