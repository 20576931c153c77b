package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"drayage.dev/controlplane/housekeeping"
	"drayage.dev/controlplane/nodecerts"
	"drayage.dev/controlplane/pki"
	"drayage.dev/controlplane/publish"
)

// Run serves the control plane until the context ends, then stops it in order: controllers, API server,
// etcd. It returns nil after a clean stop.
func Run(ctx context.Context, config Config) error {
	if err := config.complete(); err != nil {
		return err
	}
	release, err := openDataDir(&config)
	if err != nil {
		return err
	}
	defer release()
	if config.Listener == nil {
		if config.Listener, err = listen(ctx, &config); err != nil {
			return err
		}
		defer config.Listener.Close()
	}
	r := &runner{config: &config, etcdServers: config.EtcdServers}
	if r.certs, err = ensurePKI(&config); err != nil {
		return err
	}
	if r.kubeconfigs, err = writeKubeconfigs(&config, r.certs); err != nil {
		return err
	}
	if r.alone() {
		etcd, endpoints, err := startEtcd(ctx, config.serverDir("etcd"), config.serverDir("etcd.sock"), config.Ephemeral)
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil
		}
		if err != nil {
			return err
		}
		// Last in, first out: everything that uses it has ended by then.
		defer etcd.Close()
		r.etcdServers = endpoints
	} else if err := reachable(ctx, r.etcdServers); err != nil {
		return err
	}
	return r.serve(ctx)
}

// runner is one life of a control plane.
type runner struct {
	config      *Config
	certs       *pki.PKI
	kubeconfigs map[string]string
	etcdServers []string
	bound       boundObjects
	// loopback reaches the API server with all rights.
	loopback *rest.Config
	// log is Drayage's own.
	log logr.Logger
	// bootstrapped says that everything of the configuration is in the API.
	bootstrapped atomic.Bool
}

// alone tells whether no other server shares the storage.
func (r *runner) alone() bool { return len(r.config.EtcdServers) == 0 }

// identity is this server's name towards others that share its storage, empty if there are none.
func (r *runner) identity() string {
	if r.alone() {
		return ""
	}
	return r.config.identity
}

func (r *runner) serve(ctx context.Context) error {
	// Kubernetes' packages log to the process's logger, not to the one that this package was given.
	r.log = klog.FromContext(ctx)
	ctx = klog.NewContext(ctx, klog.Background())
	group, ctx := errgroup.WithContext(ctx)
	// The API server outlives the controllers, so that they can give back what they hold.
	apiCtx, stopAPI := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAPI()
	server, err := r.newServer(apiCtx)
	if err != nil {
		return err
	}
	if err := server.GenericAPIServer.AddReadyzChecks(healthz.NamedCheck(bootstrapCheck, r.readyz)); err != nil {
		return err
	}
	prepared, err := server.PrepareRun()
	if err != nil {
		return fmt.Errorf("preparing the API server: %w", err)
	}
	r.loopback = rest.CopyConfig(server.GenericAPIServer.LoopbackClientConfig)
	r.loopback.QPS = -1 // priority and fairness bounds it
	ended := make(chan struct{})
	group.Go(func() error {
		defer close(ended)
		return prepared.Run(apiCtx)
	})
	group.Go(func() error {
		defer stopAPI()
		defer r.outlastStart(apiCtx, ended)
		return untilDone(ctx, func() error { return r.operate(ctx) })
	})
	group.Go(func() error { return r.renewCertificates(ctx) })
	return group.Wait()
}

// startPatience bounds how long a stop waits for a start that is under way.
const startPatience = 30 * time.Second

// outlastStart waits until the API server's own start is over or it has ended: upstream ends the whole process, at once and
// with a failure, when a part of it is stopped in the middle of its start.
func (r *runner) outlastStart(ctx context.Context, ended <-chan struct{}) {
	if r.bootstrapped.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	_ = waitFor(ctx, r.loopback, "/readyz", bootstrapCheck)
}

// bootstrapCheck is the name of the health check that waits for the configuration's kinds and objects.
const bootstrapCheck = "drayage-bootstrap"

func (r *runner) readyz(*http.Request) error {
	if !r.bootstrapped.Load() {
		return errors.New("kinds and roles are being applied")
	}
	return nil
}

// operate brings the serving API server to ready, says so, and keeps house until the context ends.
func (r *runner) operate(ctx context.Context) error {
	if err := r.bootstrap(ctx); err != nil {
		return err
	}
	r.bootstrapped.Store(true)
	if r.config.Ready != nil {
		r.config.Ready(r.info())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.keepHouse(ctx) })
	if r.serves("services.core.drayage.dev") {
		group.Go(func() error {
			return publish.Run(klog.NewContext(ctx, r.log), publish.Config{
				Client: r.loopback, ServiceIP: r.config.serviceIP(), Server: r.identity(),
				Endpoint: r.endpoint(),
			})
		})
	}
	return group.Wait()
}

// endpoint is where others reach this API server.
func (r *runner) endpoint() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(r.config.AdvertiseAddress), uint16(r.config.Port))
}

func (r *runner) info() Info {
	cert, key := r.certs.ClientFiles(adminClient)
	return Info{
		URL: r.config.url(), CAFile: r.certs.CAFile(), TokenFile: r.config.serverDir("token"), Kubeconfigs: r.kubeconfigs,
		Admin: &rest.Config{Host: r.config.localURL(), TLSClientConfig: rest.TLSClientConfig{
			CAFile: r.certs.CAFile(), CertFile: cert, KeyFile: key,
		}},
	}
}

func (r *runner) serves(kind string) bool {
	return slices.ContainsFunc(r.config.CRDs, func(crd *apiextensionsv1.CustomResourceDefinition) bool { return crd.Name == kind })
}

// keepHouse runs the housekeeping controllers, and the signer of nodes' certificates with them.
func (r *runner) keepHouse(ctx context.Context) error {
	signer := nodecerts.Config{
		Client: r.loopback, Authority: func() *pki.Authority { return r.certs.Authority }, Agents: r.config.Agents,
		Reserved: append([]string{r.config.serviceIP().String(), "127.0.0.1", "::1"}, serviceNames...),
		Addresses: func(ctx context.Context, name string) ([]corev1.NodeAddress, error) {
			node, err := r.bound.node(ctx, name)
			return node.Status.Addresses, err
		},
	}
	return housekeeping.Run(ctx, housekeeping.Config{
		Client: r.loopback, RootCA: r.certs.CertPEM(), Identity: r.identity(),
		More: []func(context.Context) error{func(ctx context.Context) error { return nodecerts.Run(ctx, signer) }},
	})
}

// untilDone drops the error of work that was cut short by the end of the context.
func untilDone(ctx context.Context, work func() error) error {
	if err := work(); ctx.Err() == nil {
		return err
	}
	return nil
}

// renewPeriod is how often certificates are looked at. They are renewed months before their end.
const renewPeriod = time.Hour

// renewCertificates keeps the certificates on disk fresh. The API server and clients of the kubeconfigs
// follow the files; a failure, such as a full disk, is logged and tried again.
func (r *runner) renewCertificates(ctx context.Context) error {
	for ticker := time.NewTicker(renewPeriod); ; {
		select {
		case <-ctx.Done():
			ticker.Stop()
			return nil
		case now := <-ticker.C:
			renewed, err := r.certs.Renew(now)
			if len(renewed) > 0 {
				r.log.Info("Renewed certificates", "names", renewed)
				_, kubeconfigErr := writeKubeconfigs(r.config, r.certs)
				err = errors.Join(err, kubeconfigErr)
			}
			if err != nil {
				r.log.Error(err, "Renewing certificates failed, trying again", "in", renewPeriod)
			}
		}
	}
}

// bootstrap brings a serving API server to ready. The kinds do not wait for all of it: its default roles
// take the longest, and the loopback identity needs none.
func (r *runner) bootstrap(ctx context.Context) error {
	client := rest.CopyConfig(r.loopback)
	client.ContentType = ""
	if err := waitFor(ctx, client, "/apis/apiextensions.k8s.io/v1"); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return waitFor(groupCtx, client, "/readyz", bootstrapCheck) })
	group.Go(func() error {
		if err := applyCRDs(groupCtx, client, r.config.CRDs, r.alone()); err != nil {
			return err
		}
		return waitDiscovery(groupCtx, client, r.config.CRDs)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if err := applyObjects(ctx, client, r.config.Objects); err != nil {
		return err
	}
	return ensureToken(ctx, client, r.config.serverDir("token"), r.certs.Certificate())
}
