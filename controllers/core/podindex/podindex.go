// Package podindex finds the cached pods of a node. The node controller and the pod collector call it.
package podindex

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

// Add indexes pods by their node. It is to be called once per cache, before it starts.
func Add(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &dcorev1.Pod{}, dcorev1.NodeNameField, func(object client.Object) []string {
		return []string{object.(*dcorev1.Pod).Spec.NodeName}
	})
	if err != nil {
		return fmt.Errorf("indexing pods by node: %w", err)
	}
	return nil
}

// OnNode lists the pods that are bound to a node; an empty name means those that are bound to none. They
// are the cache's own and must not be modified.
func OnNode(ctx context.Context, reader client.Reader, node string) ([]dcorev1.Pod, error) {
	var list dcorev1.PodList
	err := reader.List(ctx, &list, client.MatchingFields{dcorev1.NodeNameField: node}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the pods of node %q: %w", node, err)
	}
	return list.Items, nil
}
