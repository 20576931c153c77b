package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/images"
)

// Node is one node: a machine with a network namespace, an agent, a container runtime and a cgroup of its own.
type Node struct {
	// Name is the Node object's name.
	Name string
	// Address is the node's address on the fabric.
	Address netip.Addr
	// Namespace is the node's network namespace; a node that is switched on again has a new one.
	Namespace *Namespace
	// Agent is the agent's process. The runtime and its containers outlive it, as they do on a machine.
	Agent *Process
	// Dir holds what the node keeps on disk.
	Dir string
	// CgroupRoot is the node's cgroup, relative to every hierarchy's root.
	CgroupRoot string

	cluster  *Cluster
	subnet   int
	machine  *machine
	registry net.Listener
}

func (c *Cluster) newNode(number int) (*Node, error) {
	name := "n" + strconv.Itoa(number)
	n := &Node{Name: name, Dir: filepath.Join(c.Dir, name), CgroupRoot: "/" + c.id + "-" + name, cluster: c}
	if number > c.options.Nodes-c.options.Routed {
		n.subnet = 1
	}
	n.Address = subnets[n.subnet].host(byte(10 + number))
	if err := images.WriteHosts(filepath.Join(n.DataDir(), "agent/containerd/certs.d"), "127.0.0.1:"+registryPort); err != nil {
		return nil, err
	}
	disk := filepath.Join(n.Dir, "var-lib")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return nil, err
	}
	n.machine = newMachine(name+"/machine", c.log(name+"/machine"), disk, func() *Namespace { return n.Namespace })
	n.Agent = n.machine.process(name+"/agent", c.log(name+"/agent"), append([]string{
		Binary("dray"), "agent", "--join", serverURL, "--token", c.token,
		"--node-name", name, "--node-ip", n.Address.String(),
		"--data-dir", n.DataDir(), "--run-dir", n.RunDir(), "--cgroup-root", n.CgroupRoot,
	}, c.options.AgentArgs...)...)
	return n, nil
}

// PowerOn switches the node on, the first time or after a PowerCut: a network without any state, an empty
// /run, what is on disk, and an agent that starts.
func (n *Node) PowerOn(ctx context.Context) error {
	var err error
	if n.Namespace, err = n.cluster.newHost(n.Name, n.subnet, n.Address); err != nil {
		return err
	}
	if n.registry, err = n.Namespace.Listen("tcp", "127.0.0.1:"+registryPort); err != nil {
		return err
	}
	listener := n.registry
	go func() { _ = n.cluster.registry.Serve(listener) }() // ends when the listener or the registry is closed
	if err := n.machine.start(ctx); err != nil {
		return err
	}
	return n.Agent.Start()
}

// DataDir is the agent's --data-dir.
func (n *Node) DataDir() string { return filepath.Join(n.Dir, "data") }

// RunDir is the agent's --run-dir, in the node's own /run.
func (n *Node) RunDir() string { return "/run/drayage" }

// WaitReady waits until the node's condition Ready is True.
func (n *Node) WaitReady(ctx context.Context, patience time.Duration) error {
	err := poll(ctx, patience, func() error {
		if !n.Agent.Running() {
			return stop{errors.New("its agent has ended")}
		}
		node := &dcorev1.Node{}
		if err := n.cluster.Client.Get(ctx, client.ObjectKey{Name: n.Name}, node); err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				if condition.Status == corev1.ConditionTrue {
					return nil
				}
				return fmt.Errorf("%s: %s", condition.Reason, condition.Message)
			}
		}
		return errors.New("it has no condition Ready yet")
	})
	if err != nil {
		return fmt.Errorf("waiting for node %s to be Ready: %w", n.Name, err)
	}
	return nil
}

// HTTPClient returns a client that dials from the node, with a new connection for every request. URLs
// must have numeric addresses.
func (n *Node) HTTPClient() *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: n.Namespace.DialContext, DisableKeepAlives: true}}
}

// Exec runs a command of the host's on the node: among its processes, with its mounts and its network.
func (n *Node) Exec(ctx context.Context, argv ...string) (string, error) {
	return n.machine.exec(ctx, argv...)
}

// PodNamespace opens the network namespace of a running pod of this node. The caller closes it.
func (n *Node) PodNamespace(pod types.UID) (*Namespace, error) {
	found, err := filepath.Glob("/sys/fs/cgroup/memory" + n.CgroupRoot + "/*/pod" + string(pod) + "/*/cgroup.procs")
	if err == nil && len(found) == 0 {
		found, err = filepath.Glob("/sys/fs/cgroup" + n.CgroupRoot + "/*/pod" + string(pod) + "/*/cgroup.procs")
	}
	if err != nil {
		return nil, err
	}
	for _, file := range found {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if pids := strings.Fields(string(data)); len(pids) > 0 {
			return openNamespace("of pod "+string(pod), "/proc/"+pids[0]+"/ns/net")
		}
	}
	return nil, fmt.Errorf("no process of pod %s runs on node %s", pod, n.Name)
}

// Partition cuts the node off the fabric; Heal joins it again.
func (n *Node) Partition() error { return n.cluster.fabric.setPort(n.Name, false) }

// Heal ends a partition.
func (n *Node) Heal() error { return n.cluster.fabric.setPort(n.Name, true) }

// PowerCut takes the node's power: its uplink first, so that from one instant on nothing comes from it, no last
// packet of a process that is killed either, and then all of its processes at once. Nobody gets to clean up, and
// of what it had in memory, the kernel's tables included, nothing is left. PowerOn is the power's return.
func (n *Node) PowerCut() error {
	err := errors.Join(n.cluster.fabric.removePort(n.Name), n.machine.Kill(), n.Agent.Kill())
	if n.registry != nil {
		err = errors.Join(err, ignore(n.registry.Close(), net.ErrClosed))
	}
	if n.Namespace != nil {
		err = errors.Join(err, n.Namespace.Delete())
	}
	n.registry, n.Namespace = nil, nil
	return errors.Join(err, n.removeCgroups())
}

// removeCgroups takes away the groups, which a machine would lose with its memory. The kernel empties them a
// moment after the last process has ended.
func (n *Node) removeCgroups() error {
	return poll(context.Background(), time.Minute, func() error {
		var errs []error
		for _, root := range n.cgroups() {
			var groups []string
			_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					groups = append(groups, path)
				}
				return nil
			})
			for _, group := range slices.Backward(groups) {
				errs = append(errs, ignore(os.Remove(group), fs.ErrNotExist))
			}
		}
		return errors.Join(errs...)
	})
}

// cgroups are the node's groups that exist, one for each hierarchy.
func (n *Node) cgroups() []string {
	found, _ := filepath.Glob("/sys/fs/cgroup" + n.CgroupRoot)
	more, _ := filepath.Glob("/sys/fs/cgroup/*" + n.CgroupRoot)
	return append(found, more...)
}

// close ends the agent, removes what runs on the node by `dray clean-node`, as on a machine, holds that to its
// promise and switches the node off.
func (n *Node) close() error {
	err := n.Agent.Kill()
	if n.machine.Running() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		_, clean := n.Exec(ctx, Binary("dray"), "clean-node",
			"--data-dir", n.DataDir(), "--run-dir", n.RunDir(), "--cgroup-root", n.CgroupRoot)
		left, search := n.Leftovers()
		if len(left) > 0 {
			search = errors.Join(search, fmt.Errorf("`dray clean-node` left on node %s: %s", n.Name, strings.Join(left, ", ")))
		}
		err = errors.Join(err, clean, search)
	}
	return errors.Join(err, n.PowerCut())
}

// Leftovers names the mounts, cgroups and processes of the node's agent that are there, whether the node is on
// or off.
func (n *Node) Leftovers() ([]string, error) {
	var left []string
	namespaces := []string{"self"}
	if pid := n.machine.PID(); pid != 0 {
		namespaces = append(namespaces, strconv.Itoa(pid))
	}
	for _, namespace := range namespaces {
		mounts, err := os.ReadFile("/proc/" + namespace + "/mounts")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, n.Dir) || namespace != "self" && strings.Contains(line, n.RunDir()) {
				left = append(left, "mount "+strings.TrimSpace(line))
			}
		}
	}
	for _, cgroup := range n.cgroups() {
		left = append(left, "cgroup "+cgroup)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, command := range commands {
		data, err := os.ReadFile(command)
		if err == nil && strings.Contains(string(data), n.DataDir()) {
			left = append(left, "process "+filepath.Dir(command)+" "+strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	return left, nil
}
