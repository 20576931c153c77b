//go:build cluster

package kubelet_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.etcd.io/etcd/server/v3/embed"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"drayage.dev/agent/containerd"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/config"
	"drayage.dev/controlplane/housekeeping"
	"drayage.dev/controlplane/pki"
	"drayage.dev/test/images"
)

const agentImage = "drayage.example/agent:test"

func kubeconfig(server string, ca, cert, key []byte) []byte {
	GinkgoHelper()
	data, err := clientcmd.Write(*pki.Kubeconfig(server, ca, &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}))
	Expect(err).NotTo(HaveOccurred())
	return data
}

func (m *machine) binary(name string) string { return filepath.Join(repository(), "bin", name) }

// startAPIServer starts etcd and kube-apiserver.
func (m *machine) startAPIServer() {
	GinkgoHelper()
	var err error
	m.pki, err = pki.Ensure(pki.Config{Dir: filepath.Join(m.dir, "pki"), DNSNames: []string{"kubernetes"}, IPs: []net.IP{net.ParseIP(nodeAddress)}})
	Expect(err).NotTo(HaveOccurred())
	etcdConfig := embed.NewConfig()
	etcdConfig.Dir, etcdConfig.LogLevel, etcdConfig.UnsafeNoFsync = filepath.Join(m.dir, "etcd"), "error", true
	etcdConfig.TickMs, etcdConfig.ElectionMs = 10, 100
	endpoint := url.URL{Scheme: "unix", Path: filepath.Join(m.dir, "etcd.sock")}
	etcdConfig.ListenClientUrls, etcdConfig.ListenPeerUrls = []url.URL{endpoint}, nil
	etcdConfig.InitialCluster = etcdConfig.InitialClusterFromName(etcdConfig.Name)
	etcd, err := embed.StartEtcd(etcdConfig)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(etcd.Close)
	Eventually(etcd.Server.ReadyNotify()).Should(BeClosed())

	server := start(filepath.Join(m.dir, "apiserver.log"), m.binary("kube-apiserver"),
		"--etcd-servers="+endpoint.String(), "--bind-address="+nodeAddress, "--advertise-address="+nodeAddress, "--secure-port="+port,
		"--tls-cert-file="+m.pki.ServingCert(), "--tls-private-key-file="+m.pki.ServingKey(), "--client-ca-file="+m.pki.CAFile(),
		"--service-account-issuer=https://kubernetes", "--service-account-key-file="+m.pki.ServiceAccountKey(),
		"--service-account-signing-key-file="+m.pki.ServiceAccountKey(),
		"--service-cluster-ip-range=10.97.0.0/16", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction")
	DeferCleanup(server.kill)
}

// keepHouse runs the controllers of namespaces and service accounts.
func (m *machine) keepHouse(admin *rest.Config) {
	GinkgoHelper()
	Eventually(func() error { return m.api.List(context.Background(), &corev1.NamespaceList{}) }).Should(Succeed())
	background(func(ctx context.Context) error {
		return housekeeping.Run(ctx, housekeeping.Config{Client: admin, RootCA: m.pki.CertPEM()})
	})
}

// install applies kinds, roles and policies, and gives the agents' service account what the chart gives it.
func (m *machine) install(ctx context.Context) {
	GinkgoHelper()
	crds, err := config.CRDs()
	Expect(err).NotTo(HaveOccurred())
	for _, crd := range crds {
		Expect(m.api.Create(ctx, crd)).To(Succeed())
	}
	roles, err := config.RBAC()
	Expect(err).NotTo(HaveOccurred())
	policies, err := config.Policies()
	Expect(err).NotTo(HaveOccurred())
	objects := append(roles, policies...)
	for _, namespaces := range []bool{true, false} {
		for _, object := range objects {
			if (object.GetKind() == "Namespace") == namespaces {
				Expect(m.api.Create(ctx, object.DeepCopy())).To(Succeed(), object.GetName())
			}
		}
	}
	Expect(m.api.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "drayage-agent"}})).To(Succeed())
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "drayage-agent"}}
	for _, role := range []string{"drayage:node", "drayage:join"} {
		Expect(m.api.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "agents:" + role}, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		})).To(Succeed())
	}
	Expect(m.api.Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: "agents"}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "drayage:node"},
	})).To(Succeed())
	for _, in := range []string{namespace, "default"} {
		Eventually(func() error {
			return m.api.Get(ctx, client.ObjectKey{Namespace: in, Name: "kube-root-ca.crt"}, &corev1.ConfigMap{})
		}).Should(Succeed())
		Eventually(func() error {
			return m.api.Get(ctx, client.ObjectKey{Namespace: in, Name: "default"}, &corev1.ServiceAccount{})
		}).Should(Succeed())
	}
	Eventually(func() error { return m.api.List(ctx, &dcorev1.PodList{}) }).Should(Succeed())
}

// startRuntime starts the container runtime of the kubelet, with the images of both sides in it.
func (m *machine) startRuntime(ctx context.Context) {
	GinkgoHelper()
	daemon, err := containerd.New(containerd.Config{
		DataDir: filepath.Join(m.dir, "containerd"), RunDir: filepath.Join(m.dir, "c"), RegistryDir: filepath.Join(m.dir, "containerd/certs.d"),
		Cgroups: m.runtime, Cgroup: m.runtime.Root() + "/containerd",
	})
	Expect(err).NotTo(HaveOccurred())
	background(daemon.Run)
	conn, err := daemon.Connect()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(conn.Close)
	_, _, err = daemon.Ready(ctx, conn)
	Expect(err).NotTo(HaveOccurred())
	Expect(containerd.Import(ctx, conn, agentImage, m.agentImage())).To(Succeed())

	built, err := images.Build(ctx)
	Expect(err).NotTo(HaveOccurred())
	for _, image := range built {
		if image.Name == "busybox:1.36" {
			Expect(containerd.Import(ctx, conn, "docker.io/library/busybox:1.36", image.Image)).To(Succeed())
		}
	}
	registry, err := images.NewRegistry(ctx, built)
	Expect(err).NotTo(HaveOccurred())
	listener, err := net.Listen("tcp", "127.0.0.1:5000")
	Expect(err).NotTo(HaveOccurred())
	go func() { _ = registry.Serve(listener) }()
	Expect(images.WriteHosts(filepath.Join(m.dir, "node/agent/containerd/certs.d"), "127.0.0.1:5000")).To(Succeed())
}

// agentImage is the product's image as far as a node needs it.
func (m *machine) agentImage() v1.Image {
	GinkgoHelper()
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	for _, name := range []string{"dray-agent", "dray-cni", "dray-dns"} {
		data, err := os.ReadFile(m.binary(name))
		Expect(err).NotTo(HaveOccurred(), "run `make test-kubelet`")
		Expect(writer.WriteHeader(&tar.Header{Name: "usr/local/bin/" + name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg})).To(Succeed())
		_, err = writer.Write(data)
		Expect(err).NotTo(HaveOccurred())
	}
	Expect(writer.Close()).To(Succeed())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil })
	Expect(err).NotTo(HaveOccurred())
	image, err := mutate.AppendLayers(empty.Image, layer)
	Expect(err).NotTo(HaveOccurred())
	file, err := image.ConfigFile()
	Expect(err).NotTo(HaveOccurred())
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", goruntime.GOARCH, v1.Time{Time: time.Unix(0, 0).UTC()}
	image, err = mutate.ConfigFile(image, file)
	Expect(err).NotTo(HaveOccurred())
	return image
}

// startKubelet starts the kubelet of the machine.
func (m *machine) startKubelet() {
	GinkgoHelper()
	settings, err := yaml.Marshal(map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": map[string]any{"x509": map[string]any{"clientCAFile": m.pki.CAFile()}, "anonymous": map[string]any{"enabled": false}},
		"authorization":  map[string]any{"mode": "AlwaysAllow"},
		"cgroupDriver":   "cgroupfs", "cgroupRoot": m.pods.Root(), "failCgroupV1": false, "failSwapOn": false, "oomScoreAdj": 0,
		"containerRuntimeEndpoint": "unix://" + filepath.Join(m.dir, "c/containerd.sock"),
		"podLogsDir":               filepath.Join(m.dir, "logs"), "resolvConf": "/etc/resolv.conf", "address": nodeAddress,
		"evictionHard": map[string]string{"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"localStorageCapacityIsolation": false, "volumePluginDir": filepath.Join(m.dir, "plugins"),
	})
	Expect(err).NotTo(HaveOccurred())
	m.kubelet = start(filepath.Join(m.dir, "kubelet.log"), m.binary("kubelet"),
		"--config="+m.write("kubelet.yaml", settings), "--root-dir="+filepath.Join(m.dir, "kubelet"), "--cert-dir="+filepath.Join(m.dir, "kubelet-pki"),
		"--kubeconfig="+m.identity("kubelet", pki.Identity{User: "system:node:" + nodeName, Groups: []string{"system:nodes"}}),
		"--hostname-override="+nodeName, "--node-ip="+nodeAddress)
}
