package client

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// DefaultDataDir is where `dray up` and `dray server` keep their state unless told otherwise.
	DefaultDataDir = "/var/lib/drayage"

	adminKubeconfig = "server/kubeconfig/admin.conf"
)

// ErrNoServer says that no API server is known, and what to do.
var ErrNoServer = errors.New("no API server is configured: name a kubeconfig file with --kubeconfig or in KUBECONFIG, " +
	"or run this as root on a machine where `dray up` or `dray server` runs (with its --data-dir)")

// Flags name an API server and a namespace. They are a RESTClientGetter, which is what kubectl's packages
// ask for. Without --kubeconfig, the files of $KUBECONFIG are used, else ~/.kube/config, else the
// administrator's kubeconfig in the data directory.
type Flags struct {
	*genericclioptions.ConfigFlags
	dataDir string
}

var _ genericclioptions.RESTClientGetter = (*Flags)(nil)

// NewFlags returns Flags with their defaults.
func NewFlags() *Flags {
	all := genericclioptions.NewConfigFlags(true)
	return &Flags{dataDir: DefaultDataDir, ConfigFlags: &genericclioptions.ConfigFlags{
		KubeConfig: all.KubeConfig, Context: all.Context, Namespace: all.Namespace,
		Impersonate: all.Impersonate, Timeout: all.Timeout, CacheDir: all.CacheDir,
	}}
}

// AddFlags adds --kubeconfig, --context, --namespace, --as, --request-timeout, --cache-dir and --data-dir.
func (f *Flags) AddFlags(flags *pflag.FlagSet) {
	f.ConfigFlags.AddFlags(flags)
	flags.StringVar(&f.dataDir, "data-dir", f.dataDir, "data directory of this machine's control plane, whose admin kubeconfig serves when there is no other")
}

// ToRESTConfig returns how to reach the API server, or an error that says what is missing.
func (f *Flags) ToRESTConfig() (*rest.Config, error) {
	if err := f.resolve(); err != nil {
		return nil, err
	}
	return f.ConfigFlags.ToRESTConfig()
}

// ToDiscoveryClient is part of a RESTClientGetter.
func (f *Flags) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	if err := f.resolve(); err != nil {
		return nil, err
	}
	return f.ConfigFlags.ToDiscoveryClient()
}

// ToRESTMapper returns the server's resources, with Drayage's first where a name fits several.
func (f *Flags) ToRESTMapper() (meta.RESTMapper, error) {
	if err := f.resolve(); err != nil {
		return nil, err
	}
	mapper, err := f.ConfigFlags.ToRESTMapper()
	if err != nil {
		return nil, err
	}
	return PreferDrayage(mapper)
}

// ToRawKubeConfigLoader is part of a RESTClientGetter.
func (f *Flags) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	_ = f.resolve() // a missing kubeconfig is reported by ToRESTConfig, which every command comes to
	return f.ConfigFlags.ToRawKubeConfigLoader()
}

// CurrentNamespace returns the namespace of --namespace, else the kubeconfig's, else "default".
func (f *Flags) CurrentNamespace() (string, error) {
	namespace, _, err := f.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}

// resolve settles which kubeconfig is used. It is idempotent.
func (f *Flags) resolve() error {
	if *f.KubeConfig != "" {
		if _, err := os.Stat(*f.KubeConfig); err != nil {
			return fmt.Errorf("reading the kubeconfig: %w", err)
		}
		return nil
	}
	file, err := Kubeconfig(f.dataDir)
	if err != nil {
		return err
	}
	*f.KubeConfig = file
	return nil
}

// Kubeconfig returns the kubeconfig to use when no flag names one: "" where $KUBECONFIG, ~/.kube/config or
// a pod's service account serve, which client-go finds by itself; else the administrator's in dataDir.
// It returns ErrNoServer where nothing serves.
func Kubeconfig(dataDir string) (string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	for _, file := range rules.GetLoadingPrecedence() {
		if _, err := os.Stat(file); err == nil {
			return "", nil
		}
	}
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "" {
		return "", fmt.Errorf("reading the kubeconfig: KUBECONFIG is %q, and there is no such file", os.Getenv(clientcmd.RecommendedConfigPathEnvVar))
	}
	file := filepath.Join(dataDir, adminKubeconfig)
	switch readable, err := os.Open(file); {
	case err == nil:
		return file, readable.Close()
	case errors.Is(err, os.ErrPermission):
		return "", fmt.Errorf("reading this machine's administrator kubeconfig: %w: run this as root, or name another with --kubeconfig", err)
	}
	if os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		return "", nil
	}
	return "", ErrNoServer
}
