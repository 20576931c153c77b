package claims

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
)

const (
	// sweepInterval is how often orphaned claims are looked for. Usually there are none: a deleted owner's
	// claims are given back at once, and only a killed controller leaves some.
	sweepInterval = 5 * time.Minute
	// youth is how long a claim may be older than its owner: claims are made for owners that the control
	// plane is about to store.
	youth = time.Minute
)

// AddSweeper makes mgr give back, from its start on and every five minutes, what owners that are gone
// have left.
func AddSweeper(mgr manager.Manager) error {
	c := &Claims{Client: mgr.GetClient(), Live: mgr.GetAPIReader()}
	err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		ticker := time.NewTicker(sweepInterval)
		defer ticker.Stop()
		for {
			if err := c.sweep(ctx, time.Now()); err != nil && ctx.Err() == nil {
				log.FromContext(ctx).Error(err, "sweeping claims, will try again", "after", sweepInterval)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	}))
	if err != nil {
		return fmt.Errorf("adding the sweeper of claims: %w", err)
	}
	return nil
}

// sweep compares claims with the cached owners and asks the API only about those that seem to have none,
// so that its cost is one list of each from memory.
func (c *Claims) sweep(ctx context.Context, now time.Time) error {
	var claims dnetworkingv1alpha1.AllocationList
	var services dcorev1.ServiceList
	var nodes dcorev1.NodeList
	for _, list := range []client.ObjectList{&claims, &services, &nodes} {
		if err := c.Client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("listing %T: %w", list, err)
		}
	}
	known := map[string]dnetworkingv1alpha1.AllocationOwner{}
	for i := range services.Items {
		owner := OwnerOf(Service, &services.Items[i])
		known[key(owner)] = owner
	}
	for i := range nodes.Items {
		owner := OwnerOf(Node, &nodes.Items[i])
		known[key(owner)] = owner
	}
	var orphans []dnetworkingv1alpha1.Allocation
	for _, claim := range claims.Items {
		owner, found := known[key(claim.Spec.Owner)]
		if (!found || !same(owner, claim.Spec.Owner)) && now.Sub(claim.CreationTimestamp.Time) > youth {
			orphans = append(orphans, *claim.DeepCopy())
		}
	}
	return c.dropGone(ctx, orphans)
}
