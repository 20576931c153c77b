package controlplane

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"drayage.dev/controlplane/pki"
)

// Run serves the control plane until the context ends, then stops it in order: API server, controllers,
// etcd. It returns nil after a clean stop.
func Run(ctx context.Context, config Config) error {
	if err := config.complete(); err != nil {
		return err
	}
	if err := os.MkdirAll(config.serverDir(), 0o700); err != nil {
		return fmt.Errorf("preparing the data directory: %w", err)
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
		err := bootstrap(ctx, config, loopback)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		admin, err := certs.RESTConfig(config.localURL(), identities()[adminClient])
		if err != nil {
			return err
		}
		if config.Ready != nil {
			config.Ready(Info{URL: config.url(), Admin: admin, CAFile: certs.CAFile(), Kubeconfigs: kubeconfigs})
		}
		return nil
	})
	return group.Wait()
}

// bootstrap brings a serving API server to ready.
func bootstrap(ctx context.Context, config *Config, loopback *rest.Config) error {
	client := rest.CopyConfig(loopback)
	client.QPS = -1 // a few dozen requests, once
	client.ContentType = ""
	if err := waitReadyz(ctx, client); err != nil {
		return err
	}
	if err := applyCRDs(ctx, client, config.CRDs, len(config.EtcdServers) == 0); err != nil {
		return err
	}
	if err := waitDiscovery(ctx, client, config.CRDs); err != nil {
		return err
	}
	return applyObjects(ctx, client, config.Objects)
}
