package claims

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
)

// ownerField is the name of the index over claims by their owner's kind, namespace and name.
const ownerField = "drayage.owner"

// Owner kinds.
const (
	Service = "Service"
	Node    = "Node"
)

// Index makes claims findable by their owner. It is to be called once per cache, before it starts.
func Index(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &dnetworkingv1alpha1.Allocation{}, ownerField, func(object client.Object) []string {
		return []string{key(object.(*dnetworkingv1alpha1.Allocation).Spec.Owner)}
	})
	if err != nil {
		return fmt.Errorf("indexing allocations by owner: %w", err)
	}
	return nil
}

func key(owner dnetworkingv1alpha1.AllocationOwner) string {
	return owner.Kind + "/" + owner.Namespace + "/" + owner.Name
}

// OwnerOf is how claims name an object of a kind.
func OwnerOf(kind string, object client.Object) dnetworkingv1alpha1.AllocationOwner {
	return dnetworkingv1alpha1.AllocationOwner{
		Kind: kind, Namespace: object.GetNamespace(), Name: object.GetName(), UID: object.GetUID(),
	}
}

// TakenError says who holds what was to be claimed.
type TakenError struct {
	// Value is the thing: an address, a port, a CIDR.
	Value  string
	Holder dnetworkingv1alpha1.AllocationOwner
}

// Error names the holder.
func (e *TakenError) Error() string {
	name := e.Holder.Name
	if e.Holder.Namespace != "" {
		name = e.Holder.Namespace + "/" + name
	}
	return fmt.Sprintf("%s is already allocated to %s %s", e.Value, e.Holder.Kind, name)
}

// Claims reads claims from a cache and writes them to the API.
type Claims struct {
	// Client reads from the cache, which must have Index.
	Client client.Client
	// Live reads past the cache: nothing is given back on the word of a cache alone.
	Live client.Reader
}

// Take makes a claim. A claim that its owner has already is a success; one that somebody else has is a
// *TakenError, unless that owner is gone: then it is taken over.
func (c *Claims) Take(ctx context.Context, claim *dnetworkingv1alpha1.Allocation) error {
	for range 3 {
		err := c.Client.Create(ctx, claim.DeepCopy())
		if err == nil {
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("claiming %s: %w", claim.Spec.Value, err)
		}
		held := &dnetworkingv1alpha1.Allocation{}
		if err := c.Live.Get(ctx, client.ObjectKeyFromObject(claim), held); err != nil {
			if apierrors.IsNotFound(err) {
				continue // given back this moment
			}
			return fmt.Errorf("reading the claim on %s: %w", claim.Spec.Value, err)
		}
		if same(held.Spec.Owner, claim.Spec.Owner) {
			return nil
		}
		gone, err := c.ownerGone(ctx, held.Spec.Owner)
		if err != nil {
			return err
		}
		if !gone {
			return &TakenError{Value: claim.Spec.Value, Holder: held.Spec.Owner}
		}
		if err := c.Drop(ctx, held); err != nil {
			return err
		}
	}
	return fmt.Errorf("claiming %s: it changes hands too quickly", claim.Spec.Value)
}

// Of lists the claims that owner has, as the cache shows them.
func (c *Claims) Of(ctx context.Context, owner dnetworkingv1alpha1.AllocationOwner) ([]dnetworkingv1alpha1.Allocation, error) {
	var list dnetworkingv1alpha1.AllocationList
	if err := c.Client.List(ctx, &list, client.MatchingFields{ownerField: key(owner)}); err != nil {
		return nil, fmt.Errorf("listing the claims of %s: %w", key(owner), err)
	}
	owned := list.Items[:0]
	for _, claim := range list.Items {
		if same(claim.Spec.Owner, owner) {
			owned = append(owned, claim)
		}
	}
	return owned, nil
}

// Drop gives a claim back: this very one, and not one of the same name that was made since. A claim that
// is gone already is a success.
func (c *Claims) Drop(ctx context.Context, claim *dnetworkingv1alpha1.Allocation) error {
	err := c.Client.Delete(ctx, claim, client.Preconditions{UID: &claim.UID})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("giving back %s: %w", claim.Spec.Value, err)
	}
	return nil
}

// DropGone gives back the claims in the name of an owner that is gone, or of former owners of its name.
func (c *Claims) DropGone(ctx context.Context, owner dnetworkingv1alpha1.AllocationOwner) error {
	var list dnetworkingv1alpha1.AllocationList
	if err := c.Client.List(ctx, &list, client.MatchingFields{ownerField: key(owner)}); err != nil {
		return fmt.Errorf("listing the claims of %s: %w", key(owner), err)
	}
	return c.dropGone(ctx, list.Items)
}

func (c *Claims) dropGone(ctx context.Context, list []dnetworkingv1alpha1.Allocation) error {
	for i := range list {
		gone, err := c.ownerGone(ctx, list[i].Spec.Owner)
		if err != nil {
			return err
		}
		if gone {
			if err := c.Drop(ctx, &list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// ownerGone asks the API whether an owner exists no more. A new object of its name is another owner.
func (c *Claims) ownerGone(ctx context.Context, owner dnetworkingv1alpha1.AllocationOwner) (bool, error) {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(dcorev1.GroupVersion.WithKind(owner.Kind))
	err := c.Live.Get(ctx, client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}, object)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for %s: %w", key(owner), err)
	}
	return owner.UID != "" && object.UID != owner.UID, nil
}

// same tells whether two owners are one. A claim without UID was made before its owner was stored, in its
// name.
func same(a, b dnetworkingv1alpha1.AllocationOwner) bool {
	return key(a) == key(b) && (a.UID == b.UID || a.UID == "" || b.UID == "")
}
