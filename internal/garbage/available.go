package garbage

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// limitFiles hold the limit of a container's memory, in the two versions of control groups.
var limitFiles = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// available returns the machine's memory in bytes, or the container's where one of the files says that it has less. It is 0
// where nothing is known.
func available(limits []string) int64 {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return 0
	}
	total := int64(machine.Totalram) * int64(machine.Unit) //nolint:gosec // far below 1<<63
	for _, file := range limits {
		text, err := os.ReadFile(file) //nolint:gosec // the callers name the files
		if err != nil {
			continue
		}
		// No limit is "max", or a number beyond any memory.
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && limit > 0 {
			total = min(total, limit)
		}
	}
	return total
}
