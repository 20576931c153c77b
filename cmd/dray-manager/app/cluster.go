package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray-manager/certs"
	"drayage.dev/controlplane/nodecerts"
	"drayage.dev/webhooks"
)

// The services of drayage-system by which a cluster reaches what managers serve.
const (
	webhookService = "drayage-webhooks"
	apiService     = "drayage-apiserver"
)

// Cluster is what a manager serves on a cluster that has a control plane of its own. Every manager serves, the
// leader and those that stand by.
type Cluster struct {
	// WebhookPort is the port of the admission webhooks, APIPort that of the aggregated API; 0 serves
	// none.
	WebhookPort, APIPort int
	// BindAddress is the address that both listen at; all addresses when empty.
	BindAddress string
	// CertDir keeps this process's certificates; a temporary directory when empty.
	CertDir string
	// ServingCertDir holds the serving certificate of both, tls.crt and tls.key, when somebody else makes it
	// and tells the cluster to trust it; empty: Drayage does.
	ServingCertDir string
	// Namespace is that of Drayage itself: of the certificate authority and of the services that lead
	// here.
	Namespace string
}

func (c Cluster) serves() bool { return c.WebhookPort != 0 || c.APIPort != 0 }

// agents is the user that the agents are, as pods.
func (c Cluster) agents() string {
	return serviceaccount.MakeUsername(c.Namespace, "drayage-agent")
}

// managers is the user that the managers are.
func (c Cluster) managers() string {
	return serviceaccount.MakeUsername(c.Namespace, "drayage-manager")
}

// servingNames are the names that managers are reached by.
func (c Cluster) servingNames() (names []string) {
	for _, service := range []string{webhookService, apiService} {
		names = append(names, service+"."+c.Namespace+".svc", service+"."+c.Namespace)
	}
	return names
}

func (c Cluster) validate() error {
	for flag, port := range map[string]int{"--webhook-port": c.WebhookPort, "--api-port": c.APIPort} {
		if port < 0 || port > 65535 {
			return fmt.Errorf("checking %s: %d is not a port", flag, port)
		}
	}
	if c.WebhookPort != 0 && c.WebhookPort == c.APIPort {
		return fmt.Errorf("checking --api-port: %d is --webhook-port already", c.APIPort)
	}
	return nil
}

// prepareCluster makes this process's certificates and tells the cluster to trust them. It returns nil where
// nothing is served.
func prepareCluster(ctx context.Context, cfg *Config, restConfig *rest.Config) (*certs.Keeper, error) {
	cluster := &cfg.Cluster
	if err := cluster.validate(); err != nil || !cluster.serves() {
		return nil, err
	}
	if cluster.CertDir == "" {
		cluster.CertDir = filepath.Join(os.TempDir(), fmt.Sprintf("dray-manager-%d", os.Getpid()))
	}
	config := certs.Config{Client: restConfig, Namespace: cluster.Namespace, Dir: cluster.CertDir}
	if cluster.ServingCertDir == "" {
		config.ServingNames = cluster.servingNames()
	}
	keeper, err := certs.New(config)
	if err != nil {
		return nil, err
	}
	return keeper, keeper.Ensure(ctx)
}

// servingFiles are the serving certificate and its key.
func (c Cluster) servingFiles() (cert, key string) {
	if c.ServingCertDir != "" {
		return filepath.Join(c.ServingCertDir, corev1.TLSCertKey), filepath.Join(c.ServingCertDir, corev1.TLSPrivateKeyKey)
	}
	file := filepath.Join(c.CertDir, certs.ServingFile)
	return file, file
}

// webhookServer returns the server of the webhooks, nil where none is served.
func (c Cluster) webhookServer() webhook.Server {
	if c.WebhookPort == 0 {
		return nil
	}
	cert, key := c.servingFiles()
	return webhook.NewServer(webhook.Options{
		Host: c.BindAddress, Port: c.WebhookPort,
		CertDir: filepath.Dir(cert), CertName: filepath.Base(cert), KeyName: filepath.Base(key),
	})
}

// addCluster adds what keeper's certificates are for to mgr. It returns what says whether it is served.
func addCluster(ctx context.Context, mgr ctrl.Manager, cfg *Config, restConfig *rest.Config, keeper *certs.Keeper) (ready func(context.Context) error, err error) {
	var checks []func(context.Context) error
	ready = func(ctx context.Context) error {
		for _, check := range checks {
			if err := check(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	if keeper == nil {
		return ready, nil
	}
	if err := mgr.Add(everywhere(keeper.Run)); err != nil {
		return nil, fmt.Errorf("adding the keeper of certificates: %w", err)
	}
	if cfg.Cluster.WebhookPort != 0 {
		webhooks.Register(mgr.GetWebhookServer(), mgr.GetClient(), mgr.GetAPIReader())
		started := mgr.GetWebhookServer().StartedChecker()
		checks = append(checks, func(context.Context) error { return started(nil) })
	}
	if cfg.Cluster.APIPort != 0 {
		server, err := newAggregated(ctx, cfg, restConfig, keeper)
		if err != nil {
			return nil, fmt.Errorf("making the aggregated API server: %w", err)
		}
		if err := mgr.Add(everywhere(server.run)); err != nil {
			return nil, fmt.Errorf("adding the aggregated API server: %w", err)
		}
		if err := mgr.Add(manager.RunnableFunc(signer(mgr, cfg, restConfig, keeper))); err != nil {
			return nil, fmt.Errorf("adding the signer of nodes' certificates: %w", err)
		}
		checks = append(checks, func(context.Context) error { return server.ready() })
	}
	return ready, nil
}

// signer signs what the aggregated API knows agents by, their serving certificates, on the leader only. No node
// gets one for a name of the managers: the API server trusts the same authority for those.
func signer(mgr ctrl.Manager, cfg *Config, restConfig *rest.Config, keeper *certs.Keeper) func(context.Context) error {
	config := nodecerts.Config{
		Client: restConfig, Authority: keeper.Authority, Agents: cfg.Cluster.agents(),
		Reserved: append(cfg.Cluster.servingNames(), "localhost", "127.0.0.1", "::1"),
		Addresses: func(ctx context.Context, name string) ([]corev1.NodeAddress, error) {
			node := &dcorev1.Node{}
			err := mgr.GetClient().Get(ctx, client.ObjectKey{Name: name}, node)
			return node.Status.Addresses, err
		},
	}
	return func(ctx context.Context) error { return nodecerts.Run(ctx, config) }
}

// everywhere runs on every manager, leader or not.
type everywhere func(context.Context) error

var _ manager.LeaderElectionRunnable = everywhere(nil)

// Start implements manager.Runnable.
func (e everywhere) Start(ctx context.Context) error { return e(ctx) }

// NeedLeaderElection says no.
func (everywhere) NeedLeaderElection() bool { return false }

// Election is the pace of the leader election.
type Election struct {
	// LeaseDuration is how long the others wait for a leader that does not renew.
	LeaseDuration time.Duration
	// RenewDeadline is how long a leader tries to renew before it ends.
	RenewDeadline time.Duration
	// RetryPeriod is the time between two tries, which is up to 2.2 times that.
	RetryPeriod time.Duration
}

func (e Election) validate() error {
	if e.LeaseDuration <= e.RenewDeadline || float64(e.RenewDeadline) <= 1.2*float64(e.RetryPeriod) || e.RetryPeriod <= 0 {
		return errors.New("checking the leader election: --leader-elect-lease-duration must be longer than --leader-elect-renew-deadline, " +
			"and that longer than 1.2 times --leader-elect-retry-period")
	}
	return nil
}
