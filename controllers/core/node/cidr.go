package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/controllers/core/claims"
	"drayage.dev/internal/allocation"
)

// maxRanges is how many nodes' shares of the pod range are used at most.
const maxRanges = 1 << 16

// podRange is the cluster's range of pod addresses, cut into a share per node.
type podRange struct {
	prefix netip.Prefix
	bits   int // of a share
}

func newPodRange(cidr string, bits int) (podRange, error) {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return podRange{}, fmt.Errorf("parsing the pod range: %w", err)
	}
	if bits == 0 {
		bits = 24
		if prefix.Addr().Is6() {
			bits = 64
		}
	}
	if bits < prefix.Bits() || bits > prefix.Addr().BitLen() || prefix.Addr().Is6() && bits > 64 {
		return podRange{}, fmt.Errorf("the pod range %s has no shares of /%d", cidr, bits)
	}
	return podRange{prefix: prefix.Masked(), bits: bits}, nil
}

// each yields the shares in order.
func (r podRange) each(yield func(netip.Prefix) bool) {
	count := maxRanges
	if free := r.bits - r.prefix.Bits(); free < 16 {
		count = 1 << free
	}
	for i := range count {
		var address netip.Addr
		if r.prefix.Addr().Is4() {
			bytes := r.prefix.Addr().As4()
			binary.BigEndian.PutUint32(bytes[:], binary.BigEndian.Uint32(bytes[:])+uint32(i)<<(32-r.bits))
			address = netip.AddrFrom4(bytes)
		} else {
			bytes := r.prefix.Addr().As16()
			high := bytes[:8]
			binary.BigEndian.PutUint64(high, binary.BigEndian.Uint64(high)+uint64(i)<<(64-r.bits))
			address = netip.AddrFrom16(bytes)
		}
		if !yield(netip.PrefixFrom(address, r.bits)) {
			return
		}
	}
}

// ensureCIDR gives the node a share of the pod range, or makes sure that the one it has is its own. It
// writes to node's spec only.
func (r *reconciler) ensureCIDR(ctx context.Context, node *dcorev1.Node) error {
	owner := claims.OwnerOf(claims.Node, node)
	if node.Spec.PodCIDR != "" {
		return r.confirmCIDR(ctx, node, owner)
	}
	owned, err := r.claims.Of(ctx, owner)
	if err != nil {
		return err
	}
	for _, claim := range owned {
		if claim.Spec.Type == dnetworkingv1alpha1.PodCIDR {
			// A pass before this one claimed it and did not come to write it down.
			setCIDR(node, claim.Spec.Value)
			return nil
		}
	}
	held, err := r.heldRanges(ctx)
	if err != nil {
		return err
	}
	for share := range r.podRange.each {
		if slices.ContainsFunc(held, share.Overlaps) {
			continue
		}
		claim := allocation.PodCIDR(share, owner)
		err := r.claims.Take(ctx, claim)
		var taken *claims.TakenError
		if errors.As(err, &taken) {
			continue
		}
		if err == nil {
			setCIDR(node, claim.Spec.Value)
		}
		return err
	}
	r.recorder.Eventf(node, corev1.EventTypeWarning, "CIDRNotAvailable",
		"No range of pod addresses is left in %s: delete nodes that are gone, or start the cluster with a larger range", r.podRange.prefix)
	return nil
}

// heldRanges are the ranges that nodes have. Claims are names: one does not stand in the way of another
// that overlaps it, and a cluster that was started with another size of shares has such. Nodes are asked, too: what
// one came with may not be claimed yet.
func (r *reconciler) heldRanges(ctx context.Context) ([]netip.Prefix, error) {
	var list dnetworkingv1alpha1.AllocationList
	if err := r.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the nodes' pod ranges: %w", err)
	}
	var nodes dcorev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the nodes' pod ranges: %w", err)
	}
	var held []netip.Prefix
	hold := func(text string) {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			held = append(held, prefix)
		}
	}
	for i := range list.Items {
		if spec := &list.Items[i].Spec; spec.Type == dnetworkingv1alpha1.PodCIDR {
			hold(spec.Value)
		}
	}
	for i := range nodes.Items {
		hold(nodes.Items[i].Spec.PodCIDR)
	}
	return held, nil
}

// confirmCIDR claims what the node has already: an administrator may have set it.
func (r *reconciler) confirmCIDR(ctx context.Context, node *dcorev1.Node, owner dnetworkingv1alpha1.AllocationOwner) error {
	share, err := netip.ParsePrefix(node.Spec.PodCIDR)
	if err != nil {
		r.recorder.Eventf(node, corev1.EventTypeWarning, "CIDRAssignmentFailed", "spec.podCIDR %q is no range of addresses", node.Spec.PodCIDR)
		return nil
	}
	claim := allocation.PodCIDR(share, owner)
	known := &dnetworkingv1alpha1.Allocation{}
	if r.client.Get(ctx, client.ObjectKeyFromObject(claim), known, client.UnsafeDisableDeepCopy) == nil && known.Spec.Owner == owner {
		return nil
	}
	err = r.claims.Take(ctx, claim)
	var taken *claims.TakenError
	if errors.As(err, &taken) {
		r.recorder.Eventf(node, corev1.EventTypeWarning, "CIDRAssignmentFailed", "podCIDR %v: pods of both nodes have the same addresses; delete one of the nodes", taken)
		return nil
	}
	return err
}

func setCIDR(node *dcorev1.Node, cidr string) {
	node.Spec.PodCIDR, node.Spec.PodCIDRs = cidr, []string{cidr}
}
