//go:build cluster

package hosted_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"

	"drayage.dev/agent/cgroups"
	"drayage.dev/controlplane/pki"
	"drayage.dev/test/cluster"
)

// machine is a node of the host: a network, mount, PID and cgroup namespace with directories of its own, in which
// containerd, kubelet and kube-proxy run with the paths that they have anywhere.
type machine struct {
	*host
	name, address, pods string
	dir                 string
	network             *cluster.Namespace
	// tree is what the machine takes for the root of its cgroups.
	tree *cgroups.Tree
	// init is the machine's first process, by its number on this one.
	init                    int
	runtime, kubelet, proxy *cluster.Process
	// before is what the machine had before Drayage came.
	before map[string][]string
}

// boot is what the machine's first process does: file systems, then wait and reap.
const boot = `set -e
# What others mount on this machine is none of that one's.
awk '$2 ~ "^/(run|tmp|var)/" { print $2 }' /proc/self/mounts | tac | xargs -r -d '\n' umount -l
cgroups=$(grep -E '^[^ ]+ [^ ]+ cgroup2? ' /proc/self/mounts)
mount -t sysfs sysfs /sys
[ "$(wc -l <<<"$cgroups")" = 1 ] || mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
while read -r source point type options rest; do
  mkdir -p "$point"
  options=${options#rw,}; options=${options#nosuid,}; options=${options#nodev,}; options=${options#noexec,}; options=${options#relatime}; options=${options#,}
  [ "$type" = cgroup2 ] && options=
  mount -t "$type" ${options:+-o "${options/#name=/none,name=}"} cgroup "$point"
done <<<"$cgroups"
mount -t tmpfs -o mode=755 tmpfs /run
for dir in /var/lib /var/log /etc/containerd; do mkdir -p "$1$dir"; mount --bind "$1$dir" "$dir"; done
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --make-rshared /
sysctl -qw net.ipv4.ip_forward=1
touch "$1/up"
while :; do sleep 3600 & wait $! || true; done
`

// into makes the shell a process of the machine's cgroup before it becomes something else.
const into = `for group in /sys/fs/cgroup/*"$0"/cgroup.procs /sys/fs/cgroup"$0"/cgroup.procs; do [ ! -e "$group" ] || echo $$ >"$group"; done; exec "$@"`

func (h *host) startMachine(number int) *machine {
	GinkgoHelper()
	m := &machine{
		host: h, name: fmt.Sprintf("node-%d", number), address: fmt.Sprintf("172.30.97.%d", 10+number), pods: fmt.Sprintf("10.244.%d.0/24", number),
	}
	m.dir = filepath.Join(h.dir, m.name)
	m.write("resolv.conf", []byte("nameserver "+outsideIP+"\n"))
	m.network = h.newNamespace(m.name)
	h.join(m.network, m.name, m.address)
	h.ip(m.network, "route add default via "+gateway)
	h.ip(h.control, "route add "+m.pods+" via "+m.address)
	h.ip(h.outside, "route add "+m.pods+" via "+m.address)
	for _, other := range h.machines {
		h.ip(m.network, "route add "+other.pods+" via "+other.address)
		h.ip(other.network, "route add "+m.pods+" via "+m.address)
	}
	var err error
	m.tree, err = cgroups.Open("/" + h.id + "-" + m.name)
	Expect(err).NotTo(HaveOccurred())
	Expect(m.tree.Create(m.tree.Root())).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(m.tree.Destroy(ctx)).To(Succeed()) })

	first := h.launch(m.name+"-init", "bash", "-c", into, m.tree.Root(), "nsenter", "--net="+m.network.Path(),
		"unshare", "--mount", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc", "bash", "-c", boot, "init", m.dir)
	Eventually(filepath.Join(m.dir, "up")).Should(BeAnExistingFile(), func() string { return first.Tail(10) })
	m.init = child(first)
	m.startRuntime()
	m.startKubelet()
	m.startProxy()
	return m
}

// child is the process that one started which runs on behalf of it.
func child(of *cluster.Process) int {
	GinkgoHelper()
	output, err := exec.Command("pgrep", "-P", strconv.Itoa(of.PID())).Output()
	Expect(err).NotTo(HaveOccurred(), of.Name)
	pid, err := strconv.Atoi(strings.TrimSpace(string(output)))
	Expect(err).NotTo(HaveOccurred(), of.Name)
	return pid
}

// launch starts a program on the machine.
func (m *machine) launch(name string, argv ...string) *cluster.Process {
	GinkgoHelper()
	return m.host.launch(m.name+"-"+name, append([]string{
		"bash", "-c", into, m.tree.Root(), "nsenter", "--target", strconv.Itoa(m.init), "--mount", "--net", "--pid", "--cgroup",
	}, argv...)...)
}

// command returns a command that runs on the machine.
func (m *machine) command(argv ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--target", strconv.Itoa(m.init), "--mount", "--net", "--pid", "--cgroup"}, argv...)...)
}

// kill ends a program of the machine at once.
func (m *machine) kill(process *cluster.Process) {
	GinkgoHelper()
	Expect(syscall.Kill(child(process), syscall.SIGKILL)).To(Succeed())
	Eventually(process.Running).Should(BeFalse())
}

// path is where this process finds a file of the machine.
func (m *machine) path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(m.init), "root", name)
}

func (m *machine) write(name string, data []byte) string {
	GinkgoHelper()
	return m.host.write(filepath.Join(m.name, name), data)
}

func (m *machine) settings(name string, of map[string]any) string {
	GinkgoHelper()
	data, err := yaml.Marshal(of)
	Expect(err).NotTo(HaveOccurred())
	return m.write(name, data)
}

// startRuntime starts the distribution's containerd with the network plugins of the distribution: a routed link
// per pod.
func (m *machine) startRuntime() {
	GinkgoHelper()
	m.write("cni/10-pods.conflist", []byte(`{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp",
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "`+m.pods+`"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`))
	m.images.mirror(filepath.Join(m.dir, "etc/containerd/certs.d"))
	m.write("etc/containerd/config.toml", []byte(`version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "`+sandboxImage+`"
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "`+m.dir+`/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "/etc/containerd/certs.d"
`))
	m.runtime = m.launch("containerd", "containerd")
	Eventually(m.path("/run/containerd/containerd.sock")).Should(BeAnExistingFile(), func() string { return m.runtime.Tail(20) })
}

func (m *machine) startKubelet() {
	GinkgoHelper()
	config := m.settings("kubelet.yaml", map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": map[string]any{
			"x509": map[string]any{"clientCAFile": m.pki.CAFile()}, "anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		"cgroupDriver":  "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "oomScoreAdj": 0,
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock", "address": m.address,
		"clusterDNS": []string{hostDNS}, "clusterDomain": "cluster.local",
		"evictionHard": map[string]string{"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"localStorageCapacityIsolation": false, "volumePluginDir": "/var/lib/kubelet/plugins",
	})
	m.kubelet = m.launch("kubelet", cluster.Binary("kubelet"), "--config="+config,
		"--kubeconfig="+m.identity(m.name, pki.Identity{User: "system:node:" + m.name, Groups: []string{"system:nodes"}}),
		"--hostname-override="+m.name, "--node-ip="+m.address)
}

func (m *machine) startProxy() {
	GinkgoHelper()
	zero := 0
	config := m.settings("kube-proxy.yaml", map[string]any{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables", "clusterCIDR": hostPods,
		"clientConnection": map[string]any{"kubeconfig": m.identity(m.name+"-proxy", pki.Identity{User: "system:kube-proxy"})},
		"hostnameOverride": m.name, "oomScoreAdj": 0,
		// The size of the table of connections is one for all namespaces, so not a machine's to set.
		"conntrack": map[string]any{"maxPerCore": zero, "min": zero, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	})
	m.proxy = m.launch("kube-proxy", cluster.Binary("kube-proxy"), "--config="+config)
}

// dump says how the cluster is: its objects, and the end of each log.
func (h *host) dump(ctx context.Context) string {
	var out strings.Builder
	for _, of := range []string{"pods,nodes,daemonsets,deployments,jobs", "pods.core.drayage.dev,nodes.core.drayage.dev", "events"} {
		objects, err := kubectl(ctx, "get", of, "--all-namespaces", "--output=wide", "--ignore-not-found")
		fmt.Fprintf(&out, "--- %s %v\n%s\n", of, err, objects)
	}
	for _, process := range h.processes {
		fmt.Fprintf(&out, "--- %s\n%s\n", process.Name, process.Tail(12))
	}
	for _, m := range h.machines {
		logs, _ := filepath.Glob(m.path("/var/log/pods/" + namespace + "_*/*/*.log"))
		for _, log := range append(logs, m.path("/var/lib/drayage/agent/containerd/containerd.log")) {
			text := readFile(log)
			fmt.Fprintf(&out, "--- %s %s\n%s\n", m.name, log, text[max(0, len(text)-4000):])
		}
	}
	return out.String()
}

func readFile(path string) string {
	data, _ := os.ReadFile(path)
	return string(data)
}
