package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	openapicommon "k8s.io/kube-openapi/pkg/common"
)

// Defaults of Config.
const (
	DefaultDataDir     = "/var/lib/drayage"
	DefaultPort        = 6443
	DefaultServiceCIDR = "10.96.0.0/16"
)

// Config is what Run needs to know.
type Config struct {
	// DataDir holds everything that outlives the process; the control plane keeps to its `server`
	// directory and the `version` file. Default: /var/lib/drayage.
	DataDir string
	// BindAddress is the address to listen on. Default: all.
	BindAddress string
	// AdvertiseAddress is how nodes and pods reach this API server. Default: the bind address, or the
	// address of the interface with the default route, or loopback.
	AdvertiseAddress string
	// Port to listen on. Default: 6443.
	Port int
	// Listener is used in place of BindAddress and Port where it is set.
	Listener net.Listener
	// ServiceCIDR is the range of service addresses; its first address is the API server's own service.
	// Default: 10.96.0.0/16.
	ServiceCIDR string
	// EtcdServers are the endpoints of an etcd outside. Default: none, etcd runs in this process.
	EtcdServers []string
	// EtcdTLS is how an etcd outside is trusted and told who asks.
	EtcdTLS EtcdTLS
	// ServingNames are further DNS names and addresses for the API server's certificate.
	ServingNames []string

	// AuditPolicyFile is an audit.k8s.io/v1 Policy that says what is written to server/audit/audit.log. Default: a
	// built-in one, which leaves out what objects hold.
	AuditPolicyFile string

	// CRDs are the kinds to serve; they are established before the control plane is ready.
	CRDs []*apiextensionsv1.CustomResourceDefinition
	// Objects are applied before the control plane is ready, namespaces first.
	Objects []*unstructured.Unstructured
	// AdmissionPlugins stand first in the chain, behind the check of the namespace: what they set is
	// seen by policies and webhooks, and they run again when one of those changes an object. Mutating
	// ones run before the schema of a custom resource is checked.
	AdmissionPlugins []AdmissionPlugin
	// APIGroups are served beside Kubernetes' own.
	APIGroups []APIGroup

	// Agents is the user of the service account of agents that are pods, which the signer of serving
	// certificates knows nodes by beside their client certificates. Default: none are.
	Agents string

	// Ready is called once, from a goroutine of Run, when everything above is there.
	Ready func(Info)

	// Ephemeral trades durability for speed: etcd syncs nothing to disk and elects at once. For tests.
	Ephemeral bool

	// identity is this server's name towards others that share its etcd. It is kept in the data
	// directory.
	identity string
}

// EtcdTLS names files; empty ones are not used.
type EtcdTLS struct {
	CAFile, CertFile, KeyFile string
}

// AdmissionPlugin is an in-process admission plugin.
type AdmissionPlugin struct {
	// Name is unique among all plugins, Kubernetes' own included.
	Name string
	// New makes the plugin. It may implement upstream's initializer interfaces to be given clients and
	// informers.
	New func() (admission.Interface, error)
}

// APIGroup is a group of resources that this process serves itself, with whatever storage it likes.
type APIGroup struct {
	// New makes the group. The context ends with the server.
	New func(context.Context, Deps) (*genericapiserver.APIGroupInfo, error)
	// OpenAPI describes the group's types. Not needed for types that Kubernetes serves as well.
	OpenAPI openapicommon.GetOpenAPIDefinitions
	// LongRunning names the subresources whose requests stay open, beyond Kubernetes' own exec, attach,
	// portforward, proxy and log: they get no timeout.
	LongRunning []string
}

// Deps is what an APIGroup may build on.
type Deps struct {
	// Loopback reaches this API server with all rights, once it serves.
	Loopback *rest.Config
	// Authorizer decides as the API server does.
	Authorizer authorizer.Authorizer
	// CAFile is the cluster's authority; ClientCertFile and ClientKeyFile are the API server's identity
	// towards nodes. The files change when they are renewed.
	CAFile, ClientCertFile, ClientKeyFile string
	// Kubeconfigs are Info's.
	Kubeconfigs map[string]string
	// Endpoint is where others reach this API server. Shared says that other API servers may share its storage, each at
	// an endpoint of the service default/kubernetes.
	Endpoint netip.AddrPort
	Shared   bool
}

// Info says where a ready control plane is to be found.
type Info struct {
	// URL of the API server, at its advertised address.
	URL string
	// Admin reaches the API server from this machine as a member of system:masters. Its certificate is
	// in files that are renewed. It must be copied before it is changed.
	Admin *rest.Config
	// CAFile is the certificate of the cluster's authority.
	CAFile string
	// TokenFile holds the join token that was made at the first start.
	TokenFile string
	// Kubeconfigs are the paths of the written kubeconfigs by component: admin, manager, scheduler.
	Kubeconfigs map[string]string
}

func (c *Config) complete() error {
	if c.DataDir == "" {
		c.DataDir = DefaultDataDir
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return fmt.Errorf("resolving the data directory %q: %w", c.DataDir, err)
	}
	c.DataDir = dir
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.Listener != nil {
		address, ok := c.Listener.Addr().(*net.TCPAddr)
		if !ok {
			return errors.New("listening: the listener is not a TCP listener")
		}
		c.BindAddress, c.Port = address.IP.String(), address.Port
	}
	if c.BindAddress == "" {
		c.BindAddress = "0.0.0.0"
	}
	if net.ParseIP(c.BindAddress) == nil {
		return fmt.Errorf("parsing the bind address: %q is not an IP address", c.BindAddress)
	}
	if c.AdvertiseAddress == "" {
		c.AdvertiseAddress = advertiseAddress(net.ParseIP(c.BindAddress))
	}
	if net.ParseIP(c.AdvertiseAddress) == nil {
		return fmt.Errorf("parsing the advertise address: %q is not an IP address", c.AdvertiseAddress)
	}
	if c.ServiceCIDR == "" {
		c.ServiceCIDR = DefaultServiceCIDR
	}
	if _, err := netip.ParsePrefix(c.ServiceCIDR); err != nil {
		return fmt.Errorf("parsing the service range: %w", err)
	}
	return nil
}

// serviceIP is the address of the service default/kubernetes: the first of the range.
func (c *Config) serviceIP() netip.Addr {
	return netip.MustParsePrefix(c.ServiceCIDR).Masked().Addr().Next()
}

// url is where others reach the API server.
func (c *Config) url() string {
	return "https://" + net.JoinHostPort(c.AdvertiseAddress, fmt.Sprint(c.Port))
}

// localURL is where this machine reaches the API server, whatever happens to its network.
func (c *Config) localURL() string {
	ip := net.ParseIP(c.BindAddress)
	switch {
	case ip.IsUnspecified() && ip.To4() != nil:
		ip = net.IPv4(127, 0, 0, 1)
	case ip.IsUnspecified():
		ip = net.IPv6loopback
	}
	return "https://" + net.JoinHostPort(ip.String(), fmt.Sprint(c.Port))
}

func (c *Config) serverDir(elem ...string) string {
	return filepath.Join(append([]string{c.DataDir, "server"}, elem...)...)
}
