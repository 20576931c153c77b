package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"drayage.dev/agent/containerd"
	"drayage.dev/internal/diagnostics"
	"drayage.dev/network/cni"
	"drayage.dev/network/dns"
	"drayage.dev/network/podnet"
)

// Config says how a node runs pods. DefaultConfig has the defaults that this comment speaks of.
type Config struct {
	// Kubeconfig leads to the API server with the node's identity; RESTConfig is used instead when set,
	// and is not modified.
	Kubeconfig string
	RESTConfig *rest.Config

	// NodeName is the Node's name; the host name when empty. NodeIP is its internal address; when empty,
	// the one that the machine reaches the API server or its default gateway from.
	NodeName string
	NodeIP   string
	// NodeLabels are set on the Node beside those that every node has.
	NodeLabels map[string]string
	// Reserved is what pods may not have, such as cpu=500m,memory=1Gi; nothing by default.
	Reserved map[string]string
	// SlotCPU and SlotMemory are what the node has of a machine that others use, too: agent, runtime and pods
	// together. Empty means all. Reserved is taken off that, and so is what agent and runtime need.
	SlotCPU    string
	SlotMemory string
	// MaxPods bounds the pods on the node; 110 when zero.
	MaxPods int64

	// DataDir keeps what survives a reboot (its folder agent), RunDir sockets and other state that does
	// not. CgroupRoot is the cgroup of everything that the node runs.
	DataDir    string
	RunDir     string
	CgroupRoot string

	// ClusterDNS is the DNS service's address, ClusterDomain the cluster's domain. ResolvConf is what the
	// pods with dnsPolicy Default get, and where DNS servers for other names are found.
	ClusterDNS    string
	ClusterDomain string
	ResolvConf    string
	// StubDomains are domains with name servers of their own, each as domain=address[,address...].
	StubDomains []string
	// PodCIDR and ServiceCIDR are the cluster's ranges, one of each family at most, with commas.
	PodCIDR     string
	ServiceCIDR string

	// InCluster says that the machine is a node of another cluster, too: what that has on it, its addresses and
	// routes, must not overlap with PodCIDR and ServiceCIDR.
	InCluster bool
	// HostDNS are the addresses of the name servers of that cluster, with commas: they are asked for every name
	// that is not Drayage's, in ClusterDomain too. Without any, those of ResolvConf are, and not in ClusterDomain.
	HostDNS string

	// Containerd is the runtime's binary, looked up in PATH when empty. SandboxImage is the image of
	// sandboxes; the built-in one when empty.
	Containerd   string
	SandboxImage string
	// BinDir holds dray-cni and dray-dns; when empty, they are looked for beside this program, then in
	// PATH.
	BinDir string

	// ServingCertificate returns the certificate of the streaming server; when nil it is read from
	// TLSCertFile and TLSKeyFile at each handshake, and without those nothing is served. ClientCAFile is
	// the authority of the one client, the API server. StreamingPort is its port; 0 takes a free one.
	ServingCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	TLSCertFile        string
	TLSKeyFile         string
	ClientCAFile       string
	StreamingPort      int

	// ListenAddress serves /healthz, /livez, /readyz and /metrics over plain HTTP; empty: not at all. Diagnostics
	// serves the same, and profiles, over TLS where its SecureAddress is set. DNSListenAddress and
	// DNSSecureListenAddress are the same of the DNS process.
	ListenAddress                            string
	Diagnostics                              diagnostics.Config
	DNSListenAddress, DNSSecureListenAddress string
	// DNSArguments are further arguments of the DNS process.
	DNSArguments []string

	// TakeDown ends all pods, gracefully, and the runtime when Run ends. Without it they go on, so that
	// an agent can be replaced.
	TakeDown bool
}

// DefaultConfig returns the configuration that the command starts from.
func DefaultConfig() Config {
	return Config{
		DataDir: "/var/lib/drayage", RunDir: "/run/drayage", CgroupRoot: "/drayage",
		ClusterDNS: "10.96.0.10", ClusterDomain: "cluster.local", ResolvConf: "/etc/resolv.conf",
		PodCIDR: "10.244.0.0/16", ServiceCIDR: "10.96.0.0/16", StreamingPort: 10350,
	}
}

// AddFlags binds everything but the identity (kubeconfig and certificates), which a command that joins a
// cluster finds by itself.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.NodeName, "node-name", c.NodeName, "name of this node; the host name when empty")
	flags.StringVar(&c.NodeIP, "node-ip", c.NodeIP, "address of this node; found by itself when empty")
	flags.StringToStringVar(&c.NodeLabels, "node-labels", c.NodeLabels, "labels to set on the Node")
	flags.StringToStringVar(&c.Reserved, "reserved", c.Reserved, "what pods may not have of this machine, such as cpu=500m,memory=1Gi")
	flags.StringVar(&c.SlotCPU, "slot-cpu", c.SlotCPU, "CPUs of this machine that are the node's, such as 2 or 1500m; all when empty")
	flags.StringVar(&c.SlotMemory, "slot-memory", c.SlotMemory, "memory of this machine that is the node's, such as 4Gi; all when empty")
	flags.Int64Var(&c.MaxPods, "max-pods", c.MaxPods, "how many pods may run here; 110 when 0")
	flags.StringVar(&c.DataDir, "data-dir", c.DataDir, "directory of what survives a reboot")
	flags.StringVar(&c.RunDir, "run-dir", c.RunDir, "directory of sockets and other state that does not survive a reboot")
	flags.StringVar(&c.CgroupRoot, "cgroup-root", c.CgroupRoot, "cgroup of everything that runs here")
	flags.StringVar(&c.ClusterDNS, "cluster-dns", c.ClusterDNS, "address of the cluster's DNS service")
	flags.StringVar(&c.ClusterDomain, "cluster-domain", c.ClusterDomain, "DNS domain of the cluster")
	flags.StringVar(&c.ResolvConf, "resolv-conf", c.ResolvConf, "resolver configuration of this machine")
	flags.StringArrayVar(&c.StubDomains, "stub-domain", c.StubDomains,
		"domain whose names other servers answer, as domain=address[:port][,address...]; may be given again")
	flags.StringVar(&c.PodCIDR, "pod-cidr", c.PodCIDR, "addresses of the cluster's pods")
	flags.StringVar(&c.ServiceCIDR, "service-cidr", c.ServiceCIDR, "addresses of the cluster's services")
	flags.BoolVar(&c.InCluster, "in-cluster", c.InCluster, "this machine is a node of another cluster, whose addresses and routes must not overlap with --pod-cidr and --service-cidr")
	flags.StringVar(&c.HostDNS, "host-dns", c.HostDNS, "name servers of the cluster that this machine is a node of, for names that are not Drayage's; those of --resolv-conf when empty")
	flags.StringVar(&c.Containerd, "containerd", c.Containerd, "containerd's binary; looked up in PATH when empty")
	flags.StringVar(&c.SandboxImage, "sandbox-image", c.SandboxImage, "image of pod sandboxes; the built-in one when empty")
	flags.StringVar(&c.BinDir, "bin-dir", c.BinDir, "directory of dray-cni and dray-dns; that of this program, else PATH, when empty")
	flags.StringVar(&c.ListenAddress, "listen-address", "127.0.0.1:10351", "address to serve health and metrics at over plain HTTP; none when empty")
	flags.StringVar(&c.DNSListenAddress, "dns-listen-address", "127.0.0.1:10353", "the same of the DNS process")
	c.Diagnostics.AddSecureFlags(flags)
	flags.StringVar(&c.DNSSecureListenAddress, "dns-secure-listen-address", c.DNSSecureListenAddress, "the same as --secure-listen-address of the DNS process")
	flags.IntVar(&c.StreamingPort, "streaming-port", c.StreamingPort, "port that logs and exec are served on; 0 takes a free one")
}

func (c Config) agentDir(parts ...string) string {
	return filepath.Join(append([]string{c.DataDir, "agent"}, parts...)...)
}

// resolved is what a Config means on this machine.
type resolved struct {
	Config
	rest          *rest.Config
	hostname      string
	addresses     []netip.Addr
	slot          slot
	reserved      corev1.ResourceList
	podRanges     []netip.Prefix
	serviceRanges []netip.Prefix
	dns           []net.IP
	plugin        string
	dnsProgram    string
	networkConfig []byte
}

// Check says what this machine lacks to be a node: root, or a package. It changes nothing; callers that start
// more than the agent ask it first.
func (c Config) Check() error {
	if os.Geteuid() != 0 {
		return errors.New("a node runs containers and needs root; start it with sudo")
	}
	_, err := containerd.New(containerd.Config{Binary: c.Containerd, DataDir: c.agentDir("containerd"), RunDir: containerdRunDir(c)})
	return err
}

// resolve finds what was left empty, and refuses what cannot work in one line that says what to do.
func (c Config) resolve() (*resolved, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	r := &resolved{Config: c}
	hostname, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	r.hostname = strings.ToLower(hostname)
	if r.NodeName == "" {
		r.NodeName = r.hostname
	}
	if problems := validation.IsDNS1123Subdomain(r.NodeName); len(problems) > 0 {
		return nil, fmt.Errorf("node name %q: %s; choose another with --node-name", r.NodeName, strings.Join(problems, "; "))
	}
	for _, dir := range []*string{&r.DataDir, &r.RunDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return nil, err
		}
	}
	if r.rest, err = c.restConfig(); err != nil {
		return nil, err
	}
	if err := r.findAddresses(); err != nil {
		return nil, err
	}
	if r.reserved, err = reservedOf(c.Reserved); err != nil {
		return nil, err
	}
	if r.slot, err = slotOf(c.SlotCPU, c.SlotMemory); err != nil {
		return nil, err
	}
	r.slot.reserve(r.reserved)
	if r.podRanges, err = prefixes("--pod-cidr", c.PodCIDR); err != nil {
		return nil, err
	}
	if r.serviceRanges, err = prefixes("--service-cidr", c.ServiceCIDR); err != nil {
		return nil, err
	}
	if err := r.checkRanges(); err != nil {
		return nil, err
	}
	for text := range strings.SplitSeq(c.ClusterDNS, ",") {
		if ip := net.ParseIP(text); ip != nil {
			r.dns = append(r.dns, ip)
		} else if text != "" {
			return nil, fmt.Errorf("--cluster-dns %q is no address", text)
		}
	}
	for _, text := range c.StubDomains {
		if _, err := dns.ParseStub(text); err != nil {
			return nil, fmt.Errorf("--stub-domain: %w", err)
		}
	}
	for text := range strings.SplitSeq(c.HostDNS, ",") {
		if text != "" && net.ParseIP(text) == nil {
			return nil, fmt.Errorf("--host-dns %q is no address", text)
		}
	}
	if r.plugin, err = c.find(cni.Plugin); err != nil {
		return nil, err
	}
	if r.dnsProgram, err = c.find("dray-dns"); err != nil {
		return nil, err
	}
	r.networkConfig, err = cni.NetworkConfig(r.cniSocket())
	return r, err
}

// checkRanges refuses ranges that the cluster uses which the machine is a node of.
func (r *resolved) checkRanges() error {
	if !r.InCluster {
		return nil
	}
	for _, ours := range []struct {
		what, flag, setting string
		ranges              []netip.Prefix
	}{{"pod range", "--pod-cidr", "network.podCIDR", r.podRanges}, {"service range", "--service-cidr", "network.serviceCIDR", r.serviceRanges}} {
		for _, each := range ours.ranges {
			if err := podnet.CheckRange("", each); err != nil {
				return fmt.Errorf("the %s %w; choose another with %s (the chart's value %s)", ours.what, err, ours.flag, ours.setting)
			}
		}
	}
	return nil
}

// lockFile is held by the agent for its life.
func (c Config) lockFile() string { return c.agentDir("lock") }

func (c Config) cniSocket() string { return filepath.Join(c.RunDir, "cni.sock") }

func (c Config) restConfig() (*rest.Config, error) {
	config := c.RESTConfig
	if config == nil {
		loaded, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("reading the kubeconfig %q: %w", c.Kubeconfig, err)
		}
		config = loaded
	}
	config = rest.CopyConfig(config)
	// The server's priority and fairness decides who waits.
	config.QPS, config.Burst = -1, -1
	if config.UserAgent == "" {
		config.UserAgent = "dray-agent"
	}
	return config, nil
}

// findAddresses takes the address that was given, or the one that this machine reaches the API server
// from, or that of its default route when the server is on this machine.
func (r *resolved) findAddresses() error {
	if r.NodeIP != "" {
		for text := range strings.SplitSeq(r.NodeIP, ",") {
			address, err := netip.ParseAddr(text)
			if err != nil {
				return fmt.Errorf("--node-ip %q is no address: %w", text, err)
			}
			r.addresses = append(r.addresses, address)
		}
		return nil
	}
	if server, err := url.Parse(r.rest.Host); err == nil {
		port := server.Port()
		if port == "" {
			port = "443"
		}
		if conn, err := net.Dial("udp", net.JoinHostPort(server.Hostname(), port)); err == nil {
			local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
			conn.Close()
			if !local.IsLoopback() {
				r.addresses = []netip.Addr{local}
				return nil
			}
		}
	}
	ip, err := utilnet.ChooseHostInterface()
	if err != nil {
		return fmt.Errorf("finding this node's address: %w; name it with --node-ip", err)
	}
	address, _ := netip.AddrFromSlice(ip)
	r.addresses = []netip.Addr{address.Unmap()}
	return nil
}

func reservedOf(texts map[string]string) (corev1.ResourceList, error) {
	reserved := corev1.ResourceList{}
	for name, text := range texts {
		quantity, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("--reserved %s=%s: %w", name, text, err)
		}
		reserved[corev1.ResourceName(name)] = quantity
	}
	return reserved, nil
}

func prefixes(flag, text string) ([]netip.Prefix, error) {
	var found []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		found = append(found, prefix.Masked())
	}
	return found, nil
}

// find returns the absolute path of one of the programs that belong to the node.
func (c Config) find(program string) (string, error) {
	var candidates []string
	if c.BinDir != "" {
		candidates = append(candidates, c.BinDir)
	} else {
		if self, err := os.Executable(); err == nil {
			candidates = append(candidates, filepath.Dir(self))
		}
		if found, err := exec.LookPath(program); err == nil {
			candidates = append(candidates, filepath.Dir(found))
		}
	}
	for _, dir := range candidates {
		path, err := filepath.Abs(filepath.Join(dir, program))
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not in %s; build it with `make build` or name its directory with --bin-dir",
		program, strings.Join(candidates, " or "))
}
