package claim

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/kubernetes/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Owner is a workload that claims objects.
type Owner struct {
	// Object is the workload. It is only read.
	Object client.Object
	// Kind is the workload's kind, as owner references name it.
	Kind schema.GroupVersionKind
	// Selector says which objects the workload wants.
	Selector labels.Selector
	// Client writes owner references.
	Client client.Client
	// Live reads the workload past every cache before the first adoption: a workload whose deletion the
	// cache has not seen yet must not take in orphans that the deletion just set free.
	Live client.Reader
}

// Objects returns those of candidates that the owner controls once orphans are adopted and strangers
// released. Candidates are never modified: an adopted one is returned as a copy with its new owner.
// The error gathers every write that did not succeed; the objects that could be claimed are returned
// beside it.
func Objects[T client.Object](ctx context.Context, owner Owner, candidates []T) ([]T, error) {
	manager := &controller.BaseControllerRefManager{
		Controller:   owner.Object,
		Selector:     owner.Selector,
		CanAdoptFunc: controller.RecheckDeletionTimestamp(owner.readLive),
	}
	match := func(object metav1.Object) bool { return owner.Selector.Matches(labels.Set(object.GetLabels())) }
	release := func(ctx context.Context, object metav1.Object) error { return owner.release(ctx, object.(T)) }

	var claimed []T
	var errs []error
	for _, candidate := range candidates {
		current := candidate
		adopt := func(ctx context.Context, object metav1.Object) error {
			if err := manager.CanAdopt(ctx); err != nil {
				return fmt.Errorf("adopting %s: %w", client.ObjectKeyFromObject(candidate), err)
			}
			adopted := candidate.DeepCopyObject().(T)
			current = adopted
			return owner.adopt(ctx, candidate, adopted)
		}
		switch mine, err := manager.ClaimObject(ctx, candidate, match, adopt, release); {
		case err != nil:
			errs = append(errs, err)
		case mine:
			claimed = append(claimed, current)
		}
	}
	return claimed, utilerrors.NewAggregate(errs)
}

func (o Owner) readLive(ctx context.Context) (metav1.Object, error) {
	fresh := o.Object.DeepCopyObject().(client.Object)
	if err := o.Live.Get(ctx, client.ObjectKeyFromObject(o.Object), fresh); err != nil {
		return nil, err
	}
	if fresh.GetUID() != o.Object.GetUID() {
		return nil, fmt.Errorf("%s %s is gone: another with UID %s took its name",
			o.Kind.Kind, client.ObjectKeyFromObject(o.Object), fresh.GetUID())
	}
	return fresh, nil
}

// adopt replaces the list of owner references, so the patch carries the resource version that the list
// was read at: a reference that somebody adds meanwhile is never lost.
func (o Owner) adopt(ctx context.Context, original, adopted client.Object) error {
	adopted.SetOwnerReferences(append(adopted.GetOwnerReferences(), *metav1.NewControllerRef(o.Object, o.Kind)))
	return o.Client.Patch(ctx, adopted, client.MergeFromWithOptions(original, client.MergeFromWithOptimisticLock{}))
}

func (o Owner) release(ctx context.Context, original client.Object) error {
	released := original.DeepCopyObject().(client.Object)
	var kept []metav1.OwnerReference
	for _, reference := range released.GetOwnerReferences() {
		if reference.UID != o.Object.GetUID() {
			kept = append(kept, reference)
		}
	}
	released.SetOwnerReferences(kept)
	patch := client.MergeFromWithOptions(original, client.MergeFromWithOptimisticLock{})
	// An object that is gone needs no release.
	return client.IgnoreNotFound(ignoreInvalid(o.Client.Patch(ctx, released, patch)))
}

// ignoreInvalid drops the answer to a patch whose object was deleted and created anew meanwhile.
func ignoreInvalid(err error) error {
	if apierrors.IsInvalid(err) {
		return nil
	}
	return err
}
