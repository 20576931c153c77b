package cgroups

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Tree is Drayage's part of the machine's cgroup hierarchies.
type Tree struct {
	// root is the path below each hierarchy, such as "/drayage".
	root string
	// hierarchies are the mount points by controller; the version 2 hierarchy is "".
	hierarchies map[string]string
	unified     bool
	// quota is the CPU time of the whole tree per rootPeriod, zero for no limit. It is set before pods are.
	quota int64
}

// Open finds the machine's hierarchies in /proc/self/mountinfo and returns the tree below root in all of
// them. It creates nothing.
func Open(root string) (*Tree, error) {
	if !strings.HasPrefix(root, "/") || filepath.Clean(root) != root || root == "/" {
		return nil, fmt.Errorf("cgroup root %q: want a clean absolute path below /", root)
	}
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	tree := &Tree{root: root, hierarchies: hierarchies(file)}
	if len(tree.hierarchies) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted; mount one at /sys/fs/cgroup")
	}
	_, memory := tree.hierarchies["memory"]
	tree.unified = !memory
	return tree, nil
}

// hierarchies reads the mount points by controller from a mountinfo file.
func hierarchies(mountinfo io.Reader) map[string]string {
	found := map[string]string{}
	for lines := bufio.NewScanner(mountinfo); lines.Scan(); {
		before, after, complete := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !complete || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		switch point := fields[4]; kind[0] {
		case "cgroup2":
			if _, known := found[""]; !known {
				found[""] = point
			}
		case "cgroup":
			for option := range strings.SplitSeq(kind[2], ",") {
				if controllers[option] || strings.HasPrefix(option, "name=") {
					found[option] = point
				}
			}
		}
	}
	return found
}

// controllers are the version 1 controllers, as mount options name them.
var controllers = map[string]bool{
	"cpu": true, "cpuacct": true, "cpuset": true, "memory": true, "devices": true, "freezer": true, "net_cls": true,
	"blkio": true, "perf_event": true, "net_prio": true, "hugetlb": true, "pids": true, "rdma": true, "misc": true,
}

// Root is the path below each hierarchy.
func (t *Tree) Root() string { return t.root }

// Unified says that resources are controlled by the version 2 hierarchy.
func (t *Tree) Unified() bool { return t.unified }

// mounts returns the distinct mount points.
func (t *Tree) mounts() []string {
	var points []string
	for _, point := range t.hierarchies {
		points = append(points, point)
	}
	slices.Sort(points)
	return slices.Compact(points)
}

// PodPath returns the paths that a pod's group may have, whatever its QoS class.
func (t *Tree) podPaths(pod types.UID) []string {
	name := "pod" + string(pod)
	return []string{
		filepath.Join(t.root, name), filepath.Join(t.root, "burstable", name), filepath.Join(t.root, "besteffort", name),
	}
}

// Create makes the group at path, and those above it, in every hierarchy.
func (t *Tree) Create(path string) error {
	if path != t.root && !strings.HasPrefix(path, t.root+"/") {
		return fmt.Errorf("cgroup %q is outside %q", path, t.root)
	}
	for _, point := range t.mounts() {
		dir := point
		for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
			if t.unified && point == t.hierarchies[""] {
				delegate(dir)
			}
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("creating cgroup %s: %w", dir, err)
			}
			if point == t.hierarchies["cpuset"] {
				if err := inheritCPUSet(dir); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// delegated are the version 2 controllers that limits and accounting of pods need. No more than these are switched
// on in groups that are not Drayage's, where they stay.
var delegated = []string{"cpu", "cpuset", "io", "memory", "pids"}

// delegate enables those of them for the children of a version 2 group that it has itself. A controller that
// cannot be enabled is missed when a limit is set, by name.
func delegate(dir string) {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for controller := range strings.FieldsSeq(string(available)) {
		if !slices.Contains(delegated, controller) {
			continue
		}
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
}

// inheritCPUSet gives a new version 1 cpuset its parent's CPUs and memory nodes: until it has some, no
// process may enter.
func inheritCPUSet(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || strings.TrimSpace(string(own)) != "" {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return fmt.Errorf("reading the parent's cpuset: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), parent, 0o644); err != nil {
			return fmt.Errorf("setting cpuset of %s: %w", dir, err)
		}
	}
	return nil
}

// Enter moves a process into the group at path in every hierarchy.
func (t *Tree) Enter(path string, pid int) error {
	for _, point := range t.mounts() {
		file := filepath.Join(point, path, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("moving process %d into cgroup: %w", pid, err)
		}
	}
	return nil
}

// Place moves a process into the group at path, which it makes.
func (t *Tree) Place(path string, pid int) error {
	if err := t.Create(path); err != nil {
		return err
	}
	return t.Enter(path, pid)
}

// set writes one control file of the group at path; a controller that the machine lacks is an error.
func (t *Tree) set(controller, path, file, value string) error {
	if t.unified {
		controller = ""
	}
	point, found := t.hierarchies[controller]
	if !found {
		return fmt.Errorf("setting %s of cgroup %s: controller %s is not mounted", file, path, controller)
	}
	if err := os.WriteFile(filepath.Join(point, path, file), []byte(value), 0o644); err != nil {
		return fmt.Errorf("setting %s of cgroup %s: %w", file, path, err)
	}
	return nil
}

// Read returns a control file of the group at path below the controller's hierarchy.
func (t *Tree) Read(controller, path, file string) (string, error) {
	if t.unified {
		controller = ""
	}
	point, found := t.hierarchies[controller]
	if !found {
		return "", fmt.Errorf("reading %s: controller %s is not mounted", file, controller)
	}
	data, err := os.ReadFile(filepath.Join(point, path, file))
	return strings.TrimSpace(string(data)), err
}
