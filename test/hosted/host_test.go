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
	"github.com/vishvananda/netlink"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/controlplane/housekeeping"
	"drayage.dev/controlplane/pki"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/cluster"
)

const (
	// hostIP is the address of the API server; replica n of a component has 10.77.0.<10+n>.
	hostIP     = "10.77.0.1"
	serverName = "kubernetes.default.svc"
	namespace  = "drayage-system"
)

// host is an ordinary cluster's control plane: etcd, kube-apiserver, and the controllers for namespaces,
// service accounts and garbage that kube-controller-manager would run.
type host struct {
	dir       string
	network   *cluster.Namespace
	authority *pki.Authority
	server    *cluster.Process
	// pods are the processes that play pods.
	pods []*cluster.Process
	// admin reaches the API server from this process as a member of system:masters.
	admin *rest.Config
	// agent does with the identity of an agent's pod.
	agent *rest.Config
	api   client.WithWatch
	// kubeconfig does the same for commands that run inside the network namespace.
	kubeconfig string
}

func startHost(ctx context.Context) *host {
	GinkgoHelper()
	dir, err := os.MkdirTemp("", "install-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	h := &host{dir: dir}
	h.network, err = cluster.NewNamespace(fmt.Sprintf("install-%d", os.Getpid()))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(h.network.Delete()).To(Succeed()) })
	DeferCleanup(func() {
		for _, pod := range h.pods {
			Expect(pod.Kill()).To(Succeed())
		}
	})
	h.addAddress(hostIP)
	h.authority, err = pki.New("host-ca", 24*time.Hour, time.Now())
	Expect(err).NotTo(HaveOccurred())

	h.startAPIServer(h.startEtcd())
	h.admin, h.kubeconfig = h.identity("admin", rest.Config{}, pki.Identity{User: "admin", Groups: []string{"system:masters"}})
	h.api, err = client.NewWithWatch(h.admin, client.Options{Scheme: scheme.New()})
	Expect(err).NotTo(HaveOccurred())
	Eventually(func() error { return h.get(ctx, "/readyz") }).WithTimeout(90*time.Second).Should(Succeed(), func() string { return h.server.Tail(30) })

	keeping, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = housekeeping.Run(keeping, housekeeping.Config{Client: h.admin, RootCA: h.authority.CertPEM()})
	}()
	DeferCleanup(func() { stop(); <-done })
	return h
}

func (h *host) addAddress(ip string) {
	GinkgoHelper()
	Expect(h.network.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrReplace(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(32, 32)}})
	})).To(Succeed())
}

func (h *host) startEtcd() string {
	GinkgoHelper()
	config := embed.NewConfig()
	config.Dir, config.LogLevel, config.UnsafeNoFsync = filepath.Join(h.dir, "etcd"), "error", true
	config.TickMs, config.ElectionMs = 10, 100
	endpoint := url.URL{Scheme: "unix", Path: filepath.Join(h.dir, "etcd.sock")}
	config.ListenClientUrls, config.ListenPeerUrls = []url.URL{endpoint}, nil
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	etcd, err := embed.StartEtcd(config)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(etcd.Close)
	Eventually(etcd.Server.ReadyNotify()).WithTimeout(30 * time.Second).Should(BeClosed())
	return endpoint.String()
}

func (h *host) startAPIServer(etcd string) {
	GinkgoHelper()
	ca := h.write("ca.crt", h.authority.CertPEM())
	cert, key, err := h.authority.IssueServing("kube-apiserver", []string{serverName}, time.Now())
	Expect(err).NotTo(HaveOccurred())
	serving := h.write("serving.pem", append(cert, key...))
	cert, key, err = h.authority.IssueClient(pki.Identity{User: "front-proxy-client"})
	Expect(err).NotTo(HaveOccurred())
	proxy := h.write("proxy.pem", append(cert, key...))
	signer, err := pki.New("tokens", 24*time.Hour, time.Now())
	Expect(err).NotTo(HaveOccurred())
	key, err = signer.KeyPEM()
	Expect(err).NotTo(HaveOccurred())
	tokens := h.write("tokens.key", key)
	h.server = h.process("kube-apiserver", "kube-apiserver",
		"--etcd-servers="+etcd, "--bind-address="+hostIP, "--advertise-address="+hostIP, "--secure-port=6443",
		"--tls-cert-file="+serving, "--tls-private-key-file="+serving, "--client-ca-file="+ca,
		"--service-account-issuer=https://"+serverName, "--service-account-key-file="+tokens, "--service-account-signing-key-file="+tokens,
		"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=Node,RBAC",
		// No kube-proxy runs here: the API server goes to the endpoints of services itself.
		"--enable-aggregator-routing=true",
		"--requestheader-client-ca-file="+ca, "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+proxy, "--proxy-client-key-file="+proxy)
	Expect(h.server.Start()).To(Succeed())
	DeferCleanup(func() { Expect(h.server.Kill()).To(Succeed()) })
}

// process returns one that runs a binary of bin/ inside the network namespace.
func (h *host) process(name, binary string, args ...string) *cluster.Process {
	argv := append([]string{"nsenter", "--net=" + h.network.Path(), cluster.Binary(binary)}, args...)
	return cluster.NewProcess(name, filepath.Join(h.dir, "log", name+".log"), argv...)
}

// run runs a binary of bin/ to its end, as the administrator.
func (h *host) run(ctx context.Context, binary string, args ...string) (string, error) {
	argv := append([]string{"--net=" + h.network.Path(), cluster.Binary(binary)}, args...)
	command := exec.CommandContext(ctx, "nsenter", argv...)
	command.Env = append(os.Environ(), "KUBECONFIG="+h.kubeconfig, "HOME="+h.dir)
	out, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", binary, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (h *host) get(ctx context.Context, path string) error {
	config := rest.CopyConfig(h.admin)
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	raw, err := rest.UnversionedRESTClientForConfigAndClient(withCodec(config), httpClient)
	if err != nil {
		return err
	}
	return raw.Get().AbsPath(path).Do(ctx).Error()
}

func (h *host) write(name string, data []byte) string {
	GinkgoHelper()
	path := filepath.Join(h.dir, "pki", name)
	Expect(pki.WriteFile(path, data, 0o600)).To(Succeed())
	return path
}

// identity returns how to reach the API server by a token or, without one, by a client certificate.
func (h *host) identity(name string, by rest.Config, id pki.Identity) (*rest.Config, string) {
	GinkgoHelper()
	config := &rest.Config{
		Host: "https://" + hostIP + ":6443", Dial: h.network.DialContext, QPS: -1, BearerToken: by.BearerToken,
		TLSClientConfig: rest.TLSClientConfig{CAData: h.authority.CertPEM(), ServerName: serverName},
	}
	user := &clientcmdapi.AuthInfo{Token: by.BearerToken}
	if by.BearerToken == "" {
		cert, key, err := h.authority.IssueClient(id)
		Expect(err).NotTo(HaveOccurred())
		config.CertData, config.KeyData = cert, key
		user.ClientCertificateData, user.ClientKeyData = cert, key
	}
	file := clientcmdapi.NewConfig()
	file.Clusters["host"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: h.authority.CertPEM(), TLSServerName: serverName}
	file.AuthInfos["me"] = user
	file.Contexts["host"] = &clientcmdapi.Context{Cluster: "host", AuthInfo: "me"}
	file.CurrentContext = "host"
	path := filepath.Join(h.dir, name+".conf")
	Expect(clientcmd.WriteToFile(*file, path)).To(Succeed())
	return config, path
}

// repository is the folder that the chart and the samples are in.
func repository() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
