package env

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr/funcr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/config"
	"drayage.dev/controlplane"
	"drayage.dev/internal/scheme"
)

// startTimeout bounds a start; on two busy cores the usual two seconds can become many.
const startTimeout = 4 * time.Minute

// Env is a running control plane.
type Env struct {
	// Config reaches the API server as a member of system:masters, without client-side rate limits. Copy
	// it before changing it.
	Config *rest.Config
	// DataDir is the control plane's data directory; Stop removes it unless WithDataDir named it.
	DataDir string
	// Info is what the control plane said when it was ready.
	Info controlplane.Info

	stop func() error
}

// Option changes what Start starts.
type Option func(*settings)

type settings struct {
	config  controlplane.Config
	keepDir bool
}

// WithCRDs serves these kinds in place of all from package config; none at all is allowed.
func WithCRDs(crds ...*apiextensionsv1.CustomResourceDefinition) Option {
	return func(s *settings) { s.config.CRDs = crds }
}

// WithAdmission adds in-process admission plugins.
func WithAdmission(plugins ...controlplane.AdmissionPlugin) Option {
	return func(s *settings) { s.config.AdmissionPlugins = append(s.config.AdmissionPlugins, plugins...) }
}

// WithAPIGroups serves these groups beside Kubernetes' own.
func WithAPIGroups(groups ...controlplane.APIGroup) Option {
	return func(s *settings) { s.config.APIGroups = append(s.config.APIGroups, groups...) }
}

// WithDataDir keeps the state in a directory of the caller's, so that a second Start finds it. Its path must
// be short enough for a unix socket in it.
func WithDataDir(dir string) Option {
	return func(s *settings) { s.config.DataDir, s.keepDir = dir, true }
}

// WithConfig changes anything else of the control plane's configuration.
func WithConfig(change func(*controlplane.Config)) Option {
	return func(s *settings) { change(&s.config) }
}

// init and not Start: a logger that is set while something logs is a data race.
func init() {
	if os.Getenv("DRAYAGE_TEST_LOGS") == "" {
		silence()
	}
}

// Start starts a control plane and waits until it is ready. It stops with Stop or with the context.
// Logs of the API server are dropped unless DRAYAGE_TEST_LOGS is set.
func Start(ctx context.Context, options ...Option) (*Env, error) {
	settings, err := newSettings(options)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening on loopback: %w", err)
	}
	settings.config.Listener = listener

	ctx, cancel := context.WithCancel(ctx)
	ready := make(chan controlplane.Info, 1)
	settings.config.Ready = func(info controlplane.Info) { ready <- info }
	done := make(chan struct{})
	var runErr error
	go func() {
		defer close(done)
		runErr = controlplane.Run(ctx, settings.config)
	}()
	stop := sync.OnceValue(func() error {
		cancel()
		<-done
		_ = listener.Close()
		if settings.keepDir {
			return runErr
		}
		return errors.Join(runErr, os.RemoveAll(settings.config.DataDir))
	})
	select {
	case info := <-ready:
		config := rest.CopyConfig(info.Admin)
		config.QPS = -1
		return &Env{Config: config, DataDir: settings.config.DataDir, Info: info, stop: stop}, nil
	case <-done:
		return nil, errors.Join(errors.New("starting a control plane: it ended before it was ready"), stop())
	case <-time.After(startTimeout):
		return nil, errors.Join(fmt.Errorf("starting a control plane: not ready within %s", startTimeout), stop())
	}
}

// silence keeps the control plane's log out of a test's output, but for the last of it where it ends the process, as
// upstream's API server does when a part of it does not start in time.
func silence() {
	const kept = 20
	var (
		mu   sync.Mutex
		last []string
	)
	klog.SetLogger(funcr.New(func(_, line string) {
		mu.Lock()
		defer mu.Unlock()
		last = append(last[max(0, len(last)-kept+1):], line)
	}, funcr.Options{}))
	klog.OsExit = func(code int) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stderr, "The control plane ends the process with %d:\n%s\n", code, strings.Join(last, "\n"))
		os.Exit(code)
	}
}

func newSettings(options []Option) (*settings, error) {
	crds, err := config.CRDs()
	if err != nil {
		return nil, err
	}
	objects, err := config.RBAC()
	if err != nil {
		return nil, err
	}
	policies, err := config.Policies()
	if err != nil {
		return nil, err
	}
	objects = append(objects, policies...)
	s := &settings{config: controlplane.Config{CRDs: crds, Objects: objects, Ephemeral: true}}
	for _, option := range options {
		option(s)
	}
	if s.config.DataDir == "" {
		if s.config.DataDir, err = os.MkdirTemp("", "drayage-env-"); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Stop stops the control plane and removes its temporary directory. It may be called more than once.
func (e *Env) Stop() error { return e.stop() }

// As returns how another identity reaches the API server, by a client certificate of the cluster's
// authority.
func (e *Env) As(user string, groups ...string) (*rest.Config, error) {
	config, err := controlplane.IssueRESTConfig(e.DataDir, e.Config.Host, user, groups...)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}

// Kubeconfig returns a file that reaches the API server as Config's identity does, for programs that want one.
func (e *Env) Kubeconfig() (string, error) {
	file, err := clientcmd.LoadFromFile(filepath.Join(e.DataDir, "server/kubeconfig/admin.conf"))
	if err != nil {
		return "", err
	}
	// What the file names may be an address that a test's network has not.
	for _, cluster := range file.Clusters {
		cluster.Server = e.Config.Host
	}
	path := filepath.Join(e.DataDir, "kubeconfig")
	return path, clientcmd.WriteToFile(*file, path)
}

// Client returns a client for Drayage's and Kubernetes' kinds that reads from the API server, not from a
// cache.
func (e *Env) Client() (client.WithWatch, error) {
	return client.NewWithWatch(e.Config, client.Options{Scheme: scheme.New()})
}
