package claim

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// controllerField is the name of the index. Its value is the UID of an object's controller, or orphan.
const controllerField = "drayage.controllerUID"

// orphan is the index value of objects without a controller. No UID looks like it.
const orphan = "orphan"

// Index makes objects of one kind findable by their controller. It is to be called once per kind and
// cache, before the cache starts.
func Index(ctx context.Context, indexer client.FieldIndexer, kind client.Object) error {
	err := indexer.IndexField(ctx, kind, controllerField, func(object client.Object) []string {
		if reference := metav1.GetControllerOfNoCopy(object); reference != nil {
			return []string{string(reference.UID)}
		}
		return []string{orphan}
	})
	if err != nil {
		return fmt.Errorf("indexing %T by controller: %w", kind, err)
	}
	return nil
}

// Controlled lists the objects that owner controls into list. They belong to the cache and must not be
// modified.
func Controlled(ctx context.Context, reader client.Reader, owner client.Object, list client.ObjectList) error {
	return listBy(ctx, reader, owner.GetNamespace(), string(owner.GetUID()), list)
}

// Orphans lists the objects of a namespace that nobody controls into list. They belong to the cache and
// must not be modified.
func Orphans(ctx context.Context, reader client.Reader, namespace string, list client.ObjectList) error {
	return listBy(ctx, reader, namespace, orphan, list)
}

func listBy(ctx context.Context, reader client.Reader, namespace, value string, list client.ObjectList) error {
	err := reader.List(ctx, list, client.InNamespace(namespace),
		client.MatchingFields{controllerField: value}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return fmt.Errorf("listing %T of %s in namespace %s: %w", list, value, namespace, err)
	}
	return nil
}
