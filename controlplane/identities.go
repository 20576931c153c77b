package controlplane

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"drayage.dev/controlplane/pki"
)

// Components with a client certificate of their own, by the name of its files.
const (
	adminClient     = "admin"
	apiserverClient = "apiserver-client"
	managerClient   = "manager"
	schedulerClient = "scheduler"
)

func identities() map[string]pki.Identity {
	return map[string]pki.Identity{
		adminClient:     {User: "drayage:admin", Groups: []string{user.SystemPrivilegedGroup}},
		apiserverClient: {User: "drayage:apiserver"},
		managerClient:   {User: "drayage:manager"},
		schedulerClient: {User: "drayage:scheduler"},
	}
}

// serviceNames are what pods call the API server.
var serviceNames = []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}

func ensurePKI(config *Config) (*pki.PKI, error) {
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, config.serviceIP().AsSlice(), net.ParseIP(config.AdvertiseAddress)}
	if bind := net.ParseIP(config.BindAddress); !bind.IsUnspecified() {
		ips = append(ips, bind)
	}
	names := append([]string{"localhost"}, serviceNames...)
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	for _, name := range config.ServingNames {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, name)
		}
	}
	certs, err := pki.Ensure(pki.Config{Dir: config.serverDir("pki"), DNSNames: names, IPs: ips, Clients: identities()})
	if err != nil {
		return nil, fmt.Errorf("preparing certificates: %w", err)
	}
	return certs, nil
}

// writeKubeconfigs writes a kubeconfig per component that is a client of the API. The admin's carries its
// certificate, because people copy it; the others point to the files, which clients follow as they change.
func writeKubeconfigs(config *Config, certs *pki.PKI) (map[string]string, error) {
	paths := map[string]string{}
	for _, name := range []string{adminClient, managerClient, schedulerClient} {
		cert, key := certs.ClientFiles(name)
		info, server := &clientcmdapi.AuthInfo{ClientCertificate: cert, ClientKey: key}, config.localURL()
		if name == adminClient {
			server = config.url()
			certData, certErr := os.ReadFile(cert)
			keyData, keyErr := os.ReadFile(key)
			if certErr != nil || keyErr != nil {
				return nil, fmt.Errorf("reading the admin's certificate %s: %w", cert, errors.Join(certErr, keyErr))
			}
			info = &clientcmdapi.AuthInfo{ClientCertificateData: certData, ClientKeyData: keyData}
		}
		path := config.serverDir("kubeconfig", name+".conf")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := clientcmd.WriteToFile(*pki.Kubeconfig(server, certs.CertPEM(), info), path); err != nil {
			return nil, fmt.Errorf("writing the kubeconfig %s: %w", path, err)
		}
		paths[name] = path
	}
	return paths, nil
}

// IssueRESTConfig returns how an identity reaches the API server at a URL, by a client certificate that the
// authority in a control plane's data directory signs at once. It serves tests and people on the control
// plane's machine; everybody else asks through a certificate signing request.
func IssueRESTConfig(dataDir, server, userName string, groups ...string) (*rest.Config, error) {
	authority, err := pki.Load(filepath.Join(dataDir, "server", "pki"))
	if err != nil {
		return nil, err
	}
	return authority.RESTConfig(server, pki.Identity{User: userName, Groups: groups})
}
