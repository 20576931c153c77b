package node

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"drayage.dev/internal/version"
)

// machine is what the kernel tells of the machine that pods run on.
type machine struct {
	capacity corev1.ResourceList
	info     corev1.NodeSystemInfo
	pidMax   int64
}

// readMachine asks the kernel; dataDir is on the disk that pods write to.
func readMachine(dataDir string, pods int64) (*machine, error) {
	memory, err := meminfo("MemTotal")
	if err != nil {
		return nil, err
	}
	disk, err := diskOf(dataDir)
	if err != nil {
		return nil, err
	}
	m := &machine{capacity: corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(int64(disk.bytes), resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(pods, resource.DecimalSI),
	}}
	pages, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	if err != nil {
		return nil, err
	}
	for _, dir := range pages {
		kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		count, err := strconv.ParseInt(firstLine(filepath.Join(dir, "nr_hugepages")), 10, 64)
		if err != nil {
			continue
		}
		size := resource.NewQuantity(kilobytes<<10, resource.BinarySI)
		m.capacity[corev1.ResourceName(corev1.ResourceHugePagesPrefix+size.String())] = *resource.NewQuantity(count*kilobytes<<10, resource.BinarySI)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	m.info = corev1.NodeSystemInfo{
		MachineID: firstLine("/etc/machine-id"), SystemUUID: firstLine("/sys/class/dmi/id/product_uuid"),
		BootID: firstLine("/proc/sys/kernel/random/boot_id"), KernelVersion: unix.ByteSliceToString(name.Release[:]),
		OSImage: osImage(), OperatingSystem: "linux", Architecture: runtime.GOARCH, KubeletVersion: version.Version,
	}
	if pidMax, err := strconv.ParseInt(firstLine("/proc/sys/kernel/pid_max"), 10, 64); err == nil {
		m.pidMax = pidMax
	}
	return m, nil
}

// Memory returns the machine's memory in bytes.
func Memory() (int64, error) { return meminfo("MemTotal") }

// meminfo returns a line of /proc/meminfo in bytes.
func meminfo(key string) (int64, error) {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), key+":"); found {
			kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("reading /proc/meminfo: no %s", key)
}

// disk is a filesystem's size and what is free of it, in bytes and inodes.
type disk struct{ bytes, free, inodes, inodesFree uint64 }

func diskOf(path string) (disk, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return disk{}, fmt.Errorf("asking the filesystem of %s for its size: %w", path, err)
	}
	size := uint64(stat.Bsize)
	return disk{bytes: stat.Blocks * size, free: stat.Bavail * size, inodes: stat.Files, inodesFree: stat.Ffree}, nil
}

// firstLine returns a file's first line; empty when it cannot be read, as on machines that lack it.
func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}

func osImage() string {
	data, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, "PRETTY_NAME="); found {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return "Linux"
}
