package pod

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// identity is the pod's own, as files that the machine's processes can read: what Kubernetes mounts into the
// pod, and renews there, nobody outside of it sees. The files outlive the pod, the token does not.
type identity struct {
	// source is where the pod finds its token and the cluster's authority; clientCA is the authority of
	// the API server's client certificate, empty where nothing is served.
	source, clientCA string
	dir              string
}

func (i identity) kubeconfig() string   { return filepath.Join(i.dir, "kubeconfig") }
func (i identity) clientCAFile() string { return filepath.Join(i.dir, "client-ca.crt") }

// write makes the kubeconfig and the files that it names. The address is the one that Kubernetes tells every
// pod.
func (i identity) write() error {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod; `dray agent` makes a machine a node")
	}
	if err := os.MkdirAll(i.dir, 0o700); err != nil {
		return err
	}
	if _, err := i.refresh(); err != nil {
		return err
	}
	const name = "drayage"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{
		Server: "https://" + net.JoinHostPort(host, port), CertificateAuthority: filepath.Join(i.dir, "ca.crt"),
	}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{TokenFile: filepath.Join(i.dir, "token")}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	_, err = store(i.kubeconfig(), data)
	return err
}

// refresh copies what Kubernetes has renewed. It reports whether an authority is another than before: those
// are read at starts only.
func (i identity) refresh() (authorities bool, err error) {
	for _, file := range []struct {
		source, target string
		authority      bool
	}{
		{filepath.Join(i.source, "token"), filepath.Join(i.dir, "token"), false},
		{filepath.Join(i.source, "ca.crt"), filepath.Join(i.dir, "ca.crt"), true},
		{i.clientCA, i.clientCAFile(), true},
	} {
		if file.source == "" {
			continue
		}
		data, err := os.ReadFile(file.source)
		if err != nil {
			return false, fmt.Errorf("reading the pod's identity: %w", err)
		}
		changed, err := store(file.target, data)
		if err != nil {
			return false, err
		}
		authorities = authorities || changed && file.authority
	}
	return authorities, nil
}

// store writes a file whole or not at all, and only if it changes.
func store(path string, data []byte) (changed bool, err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	draft := path + ".new"
	if err := os.WriteFile(draft, data, 0o600); err != nil {
		return false, err
	}
	return true, os.Rename(draft, path)
}
