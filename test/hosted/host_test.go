//go:build cluster

package hosted_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/controlplane/pki"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/cluster"
)

const (
	namespace = "drayage-system"

	serverIP    = "172.30.97.1"
	serverURL   = "https://" + serverIP + ":6443"
	registry    = serverIP + ":5000"
	gateway     = "172.30.97.254"
	outsideIP   = "203.0.113.10"
	outsideName = "shop.example."
	// stubName is known to a DNS server that only the chart's stub domains name.
	stubName = "shop.corp.example."

	hostPods     = "10.244.0.0/16"
	hostServices = "10.96.0.0/16"
	hostDNS      = "10.96.0.10"
)

// host is somebody's cluster: etcd and the control plane in one network namespace, machines with kubelets in
// others, a fabric that joins them and leads nowhere else but to the outside, which is a namespace, too.
type host struct {
	// dir is short, since the runtimes' sockets are in it.
	dir, id                  string
	fabric, control, outside *cluster.Namespace
	pki                      *pki.PKI
	server                   *cluster.Process
	// processes are all, in the order of their start.
	processes []*cluster.Process
	machines  []*machine
	// admin reaches the API server from this process as a member of system:masters, kubeconfig from
	// inside the namespaces.
	admin      *rest.Config
	api        client.WithWatch
	kubeconfig string
	images     *store
}

// h is the cluster of the suite's specs.
var h *host

func startHost(ctx context.Context) *host {
	GinkgoHelper()
	return startHostWith(ctx, 2, startStore)
}

// startHostWith starts a host of so many machines, which pull from a store.
func startHostWith(ctx context.Context, machines int, startStore func(context.Context, *host) *store) *host {
	GinkgoHelper()
	dir, err := os.MkdirTemp("/tmp", "hosted-")
	Expect(err).NotTo(HaveOccurred())
	h := &host{dir: dir, id: filepath.Base(dir)}
	DeferCleanup(func() {
		if os.Getenv("DRAYAGE_KEEP") == "" {
			Expect(os.RemoveAll(dir)).To(Succeed())
		}
	})
	h.startFabric()
	// What was started last ends first.
	DeferCleanup(func() {
		for i := len(h.processes) - 1; i >= 0; i-- {
			Expect(h.processes[i].Kill()).To(Succeed())
		}
	})
	h.pki, err = pki.Ensure(pki.Config{
		Dir: filepath.Join(h.dir, "pki"), DNSNames: []string{"kubernetes", "kubernetes.default.svc"},
		IPs: []net.IP{net.ParseIP(serverIP), net.ParseIP("10.96.0.1")},
	})
	Expect(err).NotTo(HaveOccurred())
	h.admin, err = h.pki.RESTConfig(serverURL, pki.Identity{User: "admin", Groups: []string{"system:masters"}})
	Expect(err).NotTo(HaveOccurred())
	h.admin.QPS, h.admin.Dial = -1, h.control.DialContext
	h.kubeconfig = h.identity("admin", pki.Identity{User: "admin", Groups: []string{"system:masters"}})

	h.startControlPlane()
	h.images = startStore(ctx, h)
	h.startOutside()
	for number := 1; number <= machines; number++ {
		h.machines = append(h.machines, h.startMachine(number))
	}
	h.api, err = client.NewWithWatch(h.admin, client.Options{Scheme: scheme.New()})
	Expect(err).NotTo(HaveOccurred())
	return h
}

// startFabric makes the network: a bridge, the control plane's namespace, and the outside, which is everybody's
// default route. The outside knows where the host's pods are, as a cloud's router does, and nothing of Drayage.
func (h *host) startFabric() {
	GinkgoHelper()
	h.fabric = h.newNamespace("fabric")
	h.ip(h.fabric, "link add bridge type bridge")
	h.ip(h.fabric, "link set bridge up")
	h.control = h.newNamespace("control")
	h.join(h.control, "control", serverIP)
	h.outside = h.newNamespace("outside")
	h.join(h.outside, "outside", gateway)
	h.ip(h.outside, "address add "+outsideIP+"/32 dev lo")
	h.ip(h.control, "route add default via "+gateway)
}

func (h *host) newNamespace(name string) *cluster.Namespace {
	GinkgoHelper()
	namespace, err := cluster.NewNamespace(h.id + "-" + name)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(namespace.Delete()).To(Succeed()) })
	return namespace
}

// join gives a namespace a link to the fabric.
func (h *host) join(n *cluster.Namespace, port, address string) {
	GinkgoHelper()
	h.ip(h.fabric, "link add "+port+" type veth peer name eth0 netns "+n.Name)
	h.ip(h.fabric, "link set "+port+" master bridge up")
	h.ip(n, "address add "+address+"/24 dev eth0")
	h.ip(n, "link set eth0 up")
}

func (h *host) ip(n *cluster.Namespace, arguments string) {
	GinkgoHelper()
	output, err := exec.Command("ip", append([]string{"-n", n.Name}, strings.Fields(arguments)...)...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "ip %s: %s", arguments, output)
}

// startControlPlane starts what kubeadm's static pods would be, with the flags that it gives them.
func (h *host) startControlPlane() {
	GinkgoHelper()
	proxyClient, kubeletClient := h.pair("front-proxy-client", pki.Identity{User: "front-proxy-client"}),
		h.pair("kubelet-client", pki.Identity{User: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}})
	h.server = h.start("kube-apiserver", h.control, "kube-apiserver",
		"--etcd-servers="+h.startEtcd(), "--bind-address="+serverIP, "--advertise-address="+serverIP, "--secure-port=6443",
		"--tls-cert-file="+h.pki.ServingCert(), "--tls-private-key-file="+h.pki.ServingKey(), "--client-ca-file="+h.pki.CAFile(),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+h.pki.ServiceAccountKey(),
		"--service-account-signing-key-file="+h.pki.ServiceAccountKey(), "--service-cluster-ip-range="+hostServices,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--kubelet-client-certificate="+kubeletClient, "--kubelet-client-key="+kubeletClient,
		// No kube-proxy runs beside it: it goes to the endpoints of services itself.
		"--enable-aggregator-routing=true",
		"--requestheader-client-ca-file="+h.pki.CAFile(), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+proxyClient, "--proxy-client-key-file="+proxyClient)
	Eventually(func() error { return h.get("/readyz") }).WithTimeout(90*time.Second).Should(Succeed(), func() string { return h.server.Tail(30) })
	h.start("kube-controller-manager", h.control, "kube-controller-manager",
		"--kubeconfig="+h.identity("kube-controller-manager", pki.Identity{User: "system:kube-controller-manager"}), "--bind-address=127.0.0.1",
		"--service-account-private-key-file="+h.pki.ServiceAccountKey(), "--root-ca-file="+h.pki.CAFile(),
		"--cluster-signing-cert-file="+h.pki.CAFile(), "--cluster-signing-key-file="+h.pki.CAKeyFile(), "--use-service-account-credentials=true")
	h.start("kube-scheduler", h.control, "kube-scheduler",
		"--kubeconfig="+h.identity("kube-scheduler", pki.Identity{User: "system:kube-scheduler"}), "--bind-address=127.0.0.1")
}

func (h *host) startEtcd() string {
	GinkgoHelper()
	config := embed.NewConfig()
	config.Dir, config.LogLevel, config.UnsafeNoFsync = filepath.Join(h.dir, "etcd"), "error", true
	endpoint := url.URL{Scheme: "unix", Path: filepath.Join(h.dir, "etcd.sock")}
	config.ListenClientUrls, config.ListenPeerUrls = []url.URL{endpoint}, nil
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	etcd, err := embed.StartEtcd(config)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(etcd.Close)
	Eventually(etcd.Server.ReadyNotify()).WithTimeout(30 * time.Second).Should(BeClosed())
	return endpoint.String()
}

// start starts a binary of bin/ inside a network namespace.
func (h *host) start(name string, n *cluster.Namespace, binary string, args ...string) *cluster.Process {
	GinkgoHelper()
	return h.launch(name, append([]string{"nsenter", "--net=" + n.Path(), cluster.Binary(binary)}, args...)...)
}

func (h *host) launch(name string, argv ...string) *cluster.Process {
	GinkgoHelper()
	process := cluster.NewProcess(name, filepath.Join(h.dir, "log", name+".log"), argv...)
	Expect(process.Start()).To(Succeed(), "run `make test-cluster`")
	h.processes = append(h.processes, process)
	return process
}

// run runs a binary of bin/ to its end, as the administrator, in the control plane's network.
func (h *host) run(ctx context.Context, binary string, args ...string) (string, error) {
	argv := append([]string{"--net=" + h.control.Path(), cluster.Binary(binary)}, args...)
	command := exec.CommandContext(ctx, "nsenter", argv...)
	command.Env = append(os.Environ(), "KUBECONFIG="+h.kubeconfig, "HOME="+h.dir)
	out, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", binary, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func kubectl(ctx context.Context, args ...string) (string, error) {
	return h.run(ctx, "dray", append([]string{"kubectl"}, args...)...)
}

// get reads a path of the API server.
func (h *host) get(path string) error {
	config := rest.CopyConfig(h.admin)
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	raw, err := rest.UnversionedRESTClientForConfigAndClient(withCodec(config), httpClient)
	if err != nil {
		return err
	}
	return raw.Get().AbsPath(path).Do(context.Background()).Error()
}

func (h *host) write(name string, data []byte) string {
	GinkgoHelper()
	path := filepath.Join(h.dir, name)
	Expect(pki.WriteFile(path, data, 0o600)).To(Succeed())
	return path
}

// pair makes a file of a client certificate and its key.
func (h *host) pair(name string, id pki.Identity) string {
	GinkgoHelper()
	cert, key, err := h.pki.IssueClient(id)
	Expect(err).NotTo(HaveOccurred())
	return h.write(filepath.Join("pki", name+".pem"), append(cert, key...))
}

// identity makes a kubeconfig of a client certificate.
func (h *host) identity(name string, id pki.Identity) string {
	GinkgoHelper()
	cert, key, err := h.pki.IssueClient(id)
	Expect(err).NotTo(HaveOccurred())
	data, err := clientcmd.Write(*pki.Kubeconfig(serverURL, h.pki.CertPEM(), &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}))
	Expect(err).NotTo(HaveOccurred())
	return h.write(name+".conf", data)
}

// repository is the folder that the chart and the samples are in.
func repository() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
