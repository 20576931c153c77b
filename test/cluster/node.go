package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/images"
)

// Node is one node: a network namespace, an agent, a container runtime and a cgroup of its own.
type Node struct {
	// Name is the Node object's name.
	Name string
	// Address is the node's address on the fabric.
	Address netip.Addr
	// Namespace is the node's network namespace.
	Namespace *Namespace
	// Agent is the agent's process. The runtime and its containers outlive it, as they do on a machine.
	Agent *Process
	// Dir holds the node's data and run directories.
	Dir string
	// CgroupRoot is the node's cgroup, relative to every hierarchy's root.
	CgroupRoot string

	cluster *Cluster
	port    string
}

func (c *Cluster) newNode(number int) (*Node, error) {
	name := "n" + strconv.Itoa(number)
	on := 0
	if number > c.options.Nodes-c.options.Routed {
		on = 1
	}
	address := subnets[on].host(byte(10 + number))
	namespace, err := c.newHost(name, on, address)
	if err != nil {
		return nil, err
	}
	n := &Node{
		Name: name, Address: address, Namespace: namespace, Dir: filepath.Join(c.Dir, name),
		CgroupRoot: "/" + c.id + "-" + name, cluster: c, port: name,
	}
	listener, err := namespace.Listen("tcp", "127.0.0.1:"+registryPort)
	if err != nil {
		return nil, err
	}
	go func() { _ = c.registry.Serve(listener) }() // ends when the registry is closed
	if err := images.WriteHosts(filepath.Join(n.DataDir(), "agent/containerd/certs.d"), "127.0.0.1:"+registryPort); err != nil {
		return nil, err
	}
	n.Agent = c.process(name+"/agent", namespace, append([]string{
		"dray", "agent", "--join", serverURL, "--token", c.token,
		"--node-name", name, "--node-ip", address.String(),
		"--data-dir", n.DataDir(), "--run-dir", n.RunDir(), "--cgroup-root", n.CgroupRoot,
	}, c.options.AgentArgs...)...)
	return n, nil
}

// DataDir is the agent's --data-dir.
func (n *Node) DataDir() string { return filepath.Join(n.Dir, "data") }

// RunDir is the agent's --run-dir. It is short, since socket paths may have 108 bytes only.
func (n *Node) RunDir() string { return "/run/" + n.cluster.id + "/" + n.Name }

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
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: n.Namespace.DialContext, DisableKeepAlives: true}}
}

// Exec runs a command of the machine inside the node's network namespace.
func (n *Node) Exec(ctx context.Context, argv ...string) (string, error) {
	return run(ctx, append([]string{"nsenter", "--net=" + n.Namespace.Path()}, argv...)...)
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
func (n *Node) Partition() error { return n.cluster.fabric.setPort(n.port, false) }

// Heal ends a partition.
func (n *Node) Heal() error { return n.cluster.fabric.setPort(n.port, true) }

// PowerCut does to the rest of the cluster what a power cut of the node does: from one instant on nothing
// comes from it. Then everything that runs on it is killed. Start of the Agent, after Heal, is the power's
// return.
func (n *Node) PowerCut() error {
	if err := n.Partition(); err != nil {
		return err
	}
	return n.close()
}

// close ends the agent and removes what runs on the node, as `dray clean-node` does on a machine.
func (n *Node) close() error {
	err := n.Agent.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, clean := n.Exec(ctx, Binary("dray"), "clean-node",
		"--data-dir", n.DataDir(), "--run-dir", n.RunDir(), "--cgroup-root", n.CgroupRoot)
	return errors.Join(err, clean, os.RemoveAll(n.RunDir()))
}

// Leftovers names the mounts, cgroups and processes of the node that are still there.
func (n *Node) Leftovers() ([]string, error) {
	var left []string
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.Dir) || strings.Contains(line, n.RunDir()) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		cgroups, err := filepath.Glob(pattern + n.CgroupRoot)
		if err != nil {
			return nil, err
		}
		for _, cgroup := range cgroups {
			left = append(left, "cgroup "+cgroup)
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, command := range commands {
		data, err := os.ReadFile(command)
		if err == nil && strings.Contains(string(data), n.Dir) {
			left = append(left, "process "+filepath.Dir(command)+" "+strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	return left, nil
}
