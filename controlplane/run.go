package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"drayage.dev/controlplane/housekeeping"
	"drayage.dev/controlplane/pki"
)

// Run serves the control plane until the context ends, then stops it in order: API server, controllers,
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
	certs, err := ensurePKI(&config)
	if err != nil {
		return err
	}
	kubeconfigs, err := writeKubeconfigs(&config, certs)
	if err != nil {
		return err
	}
	etcdServers := config.EtcdServers
	if len(etcdServers) == 0 {
		etcd, endpoints, err := startEtcd(ctx, config.serverDir("etcd"), config.serverDir("etcd.sock"), config.Ephemeral)
		if err != nil {
			return err
		}
		// Last in, first out: everything that uses it has ended by then.
		defer etcd.Close()
		etcdServers = endpoints
	}
	return serve(ctx, &config, certs, etcdServers, kubeconfigs)
}

func serve(ctx context.Context, config *Config, certs *pki.PKI, etcdServers []string, kubeconfigs map[string]string) error {
	group, ctx := errgroup.WithContext(ctx)
	server, err := newServer(ctx, config, certs, etcdServers)
	if err != nil {
		return err
	}
	prepared, err := server.PrepareRun()
	if err != nil {
		return fmt.Errorf("preparing the API server: %w", err)
	}
	loopback := server.GenericAPIServer.LoopbackClientConfig
	group.Go(func() error { return prepared.Run(ctx) })
	group.Go(func() error {
		return untilDone(ctx, func() error { return operate(ctx, config, certs, loopback, kubeconfigs) })
	})
	group.Go(func() error { return renewCertificates(ctx, config, certs) })
	return group.Wait()
}

// operate brings the serving API server to ready, says so, and keeps house until the context ends.
func operate(ctx context.Context, config *Config, certs *pki.PKI, loopback *rest.Config, kubeconfigs map[string]string) error {
	if err := bootstrap(ctx, config, loopback); err != nil {
		return err
	}
	admin, err := certs.RESTConfig(config.localURL(), identities()[adminClient])
	if err != nil {
		return err
	}
	if config.Ready != nil {
		config.Ready(Info{URL: config.url(), Admin: admin, CAFile: certs.CAFile(), Kubeconfigs: kubeconfigs})
	}
	identity := ""
	if len(config.EtcdServers) > 0 {
		identity = config.identity
	}
	return housekeeping.Run(ctx, housekeeping.Config{Client: loopback, RootCA: certs.CertPEM(), Identity: identity})
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
func renewCertificates(ctx context.Context, config *Config, certs *pki.PKI) error {
	log := klog.FromContext(ctx)
	for ticker := time.NewTicker(renewPeriod); ; {
		select {
		case <-ctx.Done():
			ticker.Stop()
			return nil
		case now := <-ticker.C:
			renewed, err := certs.Renew(now)
			if len(renewed) > 0 {
				log.Info("Renewed certificates", "names", renewed)
				_, kubeconfigErr := writeKubeconfigs(config, certs)
				err = errors.Join(err, kubeconfigErr)
			}
			if err != nil {
				log.Error(err, "Renewing certificates failed, trying again", "in", renewPeriod)
			}
		}
	}
}

// bootstrap brings a serving API server to ready. The kinds do not wait for all of it: its default roles
// take the longest, and the loopback identity needs none.
func bootstrap(ctx context.Context, config *Config, loopback *rest.Config) error {
	client := rest.CopyConfig(loopback)
	client.QPS = -1 // a few dozen requests, once
	client.ContentType = ""
	if err := waitFor(ctx, client, "/apis/apiextensions.k8s.io/v1"); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return waitFor(groupCtx, client, "/readyz") })
	group.Go(func() error {
		if err := applyCRDs(groupCtx, client, config.CRDs, len(config.EtcdServers) == 0); err != nil {
			return err
		}
		return waitDiscovery(groupCtx, client, config.CRDs)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return applyObjects(ctx, client, config.Objects)
}
