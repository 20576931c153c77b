package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controllers/apps/claim"
	"drayage.dev/controllers/apps/deployment"
	"drayage.dev/controllers/apps/replicaset"
	"drayage.dev/controllers/core"
	"drayage.dev/controllers/policy/poddisruptionbudget"
	"drayage.dev/internal/admission"
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
}

// Add adds every controller to mgr. It is to be called once, before mgr starts.
func Add(mgr ctrl.Manager, cfg Config) error {
	lookup := admission.NewLookup(mgr.GetClient(), mgr.GetAPIReader())
	preparePod := func(ctx context.Context, pod *corev1.Pod) ([]string, field.ErrorList) {
		return admission.Prepare(ctx, pod, lookup)
	}
	for _, kind := range []client.Object{&dcorev1.Pod{}, &dappsv1.ReplicaSet{}} {
		if err := claim.Index(context.Background(), mgr.GetFieldIndexer(), kind); err != nil {
			return err
		}
	}
	for _, add := range []func() error{
		func() error { return deployment.Add(mgr) },
		func() error { return replicaset.Add(mgr, replicaset.Config{Prepare: preparePod}) },
		func() error { return poddisruptionbudget.Add(mgr) },
		func() error {
			return core.Add(mgr, core.Config{
				ServiceCIDR: cfg.ServiceCIDR, PodCIDR: cfg.PodCIDR, NodeCIDRBits: cfg.NodeCIDRBits,
				NodeGrace: cfg.NodeGrace, NodeQuarantine: cfg.NodeQuarantine,
			})
		},
	} {
		if err := add(); err != nil {
			return err
		}
	}
	return nil
}
