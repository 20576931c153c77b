package core

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controllers/core/claims"
	"drayage.dev/controllers/core/endpointslice"
	"drayage.dev/controllers/core/hostservice"
	"drayage.dev/controllers/core/node"
	"drayage.dev/controllers/core/pod"
	"drayage.dev/controllers/core/podindex"
	"drayage.dev/controllers/core/service"
)

// Config is what the controllers need besides a manager.
type Config struct {
	// ServiceCIDR is the range of cluster addresses, such as "10.96.0.0/16".
	ServiceCIDR string
	// PodCIDR is the range that nodes get their pod ranges from, such as "10.244.0.0/16".
	PodCIDR string
	// NodeCIDRBits is the size of a node's pod range; zero means 24, for IPv6 64.
	NodeCIDRBits int
	// NodeGrace is how long a node's lease may go without renewal before the node counts as lost; zero
	// means 40 seconds.
	NodeGrace time.Duration
	// NodeQuarantine is how long a node must be missing before the pods that are bound to it are
	// collected; zero means 40 seconds.
	NodeQuarantine time.Duration
	// Hosted says that the API server is a cluster's that has Services of its own.
	Hosted bool
}

// Add adds the controllers of the core group to mgr, with the cache indexes that they share. It is to be
// called once, before mgr starts.
func Add(mgr ctrl.Manager, cfg Config) error {
	ctx, indexer := context.Background(), mgr.GetFieldIndexer()
	for _, add := range []func() error{
		func() error { return claims.Index(ctx, indexer) },
		func() error { return podindex.Add(ctx, indexer) },
		func() error { return claims.AddSweeper(mgr) },
		func() error { return service.Add(mgr, service.Config{ServiceCIDR: cfg.ServiceCIDR}) },
		func() error {
			if !cfg.Hosted {
				return nil
			}
			return hostservice.Add(mgr)
		},
		func() error { return endpointslice.Add(mgr) },
		func() error {
			return node.Add(mgr, node.Config{PodCIDR: cfg.PodCIDR, NodeCIDRBits: cfg.NodeCIDRBits, Grace: cfg.NodeGrace})
		},
		func() error { return pod.Add(mgr, pod.Config{Quarantine: cfg.NodeQuarantine}) },
	} {
		if err := add(); err != nil {
			return err
		}
	}
	return nil
}

// CacheByObject says how the manager's cache is to hold what these controllers watch: of the cluster's
// leases those of nodes only.
func CacheByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		&coordinationv1.Lease{}: {Namespaces: map[string]cache.Config{dcorev1.NodeLeaseNamespace: {}}},
	}
}
