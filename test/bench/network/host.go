package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/config"
	"drayage.dev/controlplane/pki"
	"drayage.dev/internal/scheme"
	"drayage.dev/network/netlab"
	"drayage.dev/test/cluster"
)

// The fabric's addresses.
var (
	fabricAddress = netip.MustParsePrefix("10.77.0.254/24")
	serverAddress = netip.MustParsePrefix("10.77.0.1/24")
	nodeAddress   = netip.MustParsePrefix("10.77.0.2/24")
)

const (
	serverName = "kubernetes.default.svc"
	// nodeName is that of both proxies' node.
	nodeName = "bench"
	// startTimeout bounds the start of the API server; it takes some ten seconds.
	startTimeout = 2 * time.Minute
)

// host is one kube-apiserver with its etcd and Drayage's kinds, behind a fabric that nodes join.
type host struct {
	dir        string
	fabric     *netlab.Fabric
	network    *netlab.Namespace
	etcd       *embed.Etcd
	server     *cluster.Process
	kubeconfig string
	api        client.Client
}

func startHost(ctx context.Context, dir string) (_ *host, err error) {
	h := &host{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.fabric, err = netlab.NewFabric(fabricAddress); err != nil {
		return nil, err
	}
	if h.network, err = h.fabric.Share(serverAddress, fabricAddress.Addr()); err != nil {
		return nil, err
	}
	if err := h.startEtcd(); err != nil {
		return nil, err
	}
	if err := h.startServer(); err != nil {
		return nil, err
	}
	return h, h.prepare(ctx)
}

func (h *host) startEtcd() (err error) {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.UnsafeNoFsync = filepath.Join(h.dir, "etcd"), "fatal", true
	cfg.ListenClientUrls, cfg.ListenPeerUrls = []url.URL{h.etcdURL()}, nil
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.QuotaBackendBytes = 8 << 30
	if h.etcd, err = embed.StartEtcd(cfg); err != nil {
		return fmt.Errorf("starting etcd: %w", err)
	}
	return nil
}

func (h *host) etcdURL() url.URL {
	return url.URL{Scheme: "unix", Path: filepath.Join(h.dir, "etcd.sock")}
}

func (h *host) startServer() error {
	authority, err := pki.New("bench-ca", 24*time.Hour, time.Now())
	if err != nil {
		return err
	}
	cert, key, err := authority.IssueServing("kube-apiserver", []string{serverName}, time.Now())
	if err != nil {
		return err
	}
	signer, err := authority.KeyPEM()
	if err != nil {
		return err
	}
	files := map[string][]byte{"ca.crt": authority.CertPEM(), "serving.pem": append(cert, key...), "tokens.key": signer}
	for file, content := range files {
		if err := os.WriteFile(h.file(file), content, 0o600); err != nil {
			return err
		}
	}
	etcd := h.etcdURL()
	address := serverAddress.Addr().String()
	h.server = cluster.NewProcess("kube-apiserver", h.file("kube-apiserver.log"), "nsenter", "--net="+h.network.Path, cluster.Binary("kube-apiserver"),
		"--etcd-servers="+etcd.String(), "--bind-address="+address, "--advertise-address="+address, "--secure-port=6443",
		"--tls-cert-file="+h.file("serving.pem"), "--tls-private-key-file="+h.file("serving.pem"), "--client-ca-file="+h.file("ca.crt"),
		"--service-account-issuer=https://"+serverName, "--service-account-key-file="+h.file("tokens.key"),
		"--service-account-signing-key-file="+h.file("tokens.key"), "--service-cluster-ip-range="+serviceRange.String(),
		"--authorization-mode=RBAC", "--max-requests-inflight=1000", "--max-mutating-requests-inflight=1000")
	if err := h.server.Start(); err != nil {
		return err
	}
	return h.identify(authority)
}

func (h *host) file(name string) string { return filepath.Join(h.dir, name) }

// identify makes the administrator's way to the server, which the proxies take, too.
func (h *host) identify(authority *pki.Authority) error {
	cert, key, err := authority.IssueClient(pki.Identity{User: "admin", Groups: []string{"system:masters"}})
	if err != nil {
		return err
	}
	restConfig := &rest.Config{
		Host: "https://" + serverAddress.Addr().String() + ":6443", QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: authority.CertPEM(), CertData: cert, KeyData: key, ServerName: serverName},
		Dial: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = h.network.Do(func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}
	kubeconfig := pki.Kubeconfig(restConfig.Host, authority.CertPEM(), &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key})
	for _, c := range kubeconfig.Clusters {
		c.TLSServerName = serverName
	}
	h.kubeconfig = h.file("kubeconfig")
	if err := clientcmd.WriteToFile(*kubeconfig, h.kubeconfig); err != nil {
		return err
	}
	kinds := scheme.New()
	if err := apiextensionsv1.AddToScheme(kinds); err != nil {
		return err
	}
	h.api, err = client.New(restConfig, client.Options{Scheme: kinds})
	return err
}

// prepare waits for the server and gives it Drayage's kinds and the node.
func (h *host) prepare(ctx context.Context) error {
	crds, err := config.CRDs()
	if err != nil {
		return err
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeAddress.Addr().String()}}},
	}
	var last error
	err = wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, startTimeout, true, func(ctx context.Context) (bool, error) {
		last = client.IgnoreAlreadyExists(h.api.Create(ctx, node.DeepCopy()))
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for kube-apiserver: %w: %w: %s", err, last, h.server.Tail(5))
	}
	for _, crd := range crds {
		if err := h.api.Create(ctx, crd); err != nil {
			return fmt.Errorf("making %s: %w", crd.Name, err)
		}
	}
	for _, crd := range crds {
		if err := h.established(ctx, crd.Name); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) established(ctx context.Context, name string) error {
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, startTimeout, true, func(ctx context.Context) (bool, error) {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := h.api.Get(ctx, client.ObjectKey{Name: name}, crd); err != nil {
			return false, err
		}
		for _, condition := range crd.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", name, err)
	}
	return nil
}

func (h *host) close() error {
	var errs []error
	if h.server != nil {
		errs = append(errs, h.server.Kill())
	}
	if h.etcd != nil {
		h.etcd.Close()
	}
	if h.network != nil {
		errs = append(errs, h.network.Delete())
	}
	if h.fabric != nil {
		errs = append(errs, h.fabric.Delete())
	}
	return errors.Join(errs...)
}
