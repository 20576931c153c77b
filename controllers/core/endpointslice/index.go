package endpointslice

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
)

// A service and its pods find each other by one pair of key and value, so that a change costs what
// matches and not what the namespace holds: services are indexed by the first pair of their selector,
// pods by every pair of their labels. The rest of a selector is checked on what the index yields.
const (
	selectorField = "drayage.selector"
	labelField    = "drayage.label"
	// serviceField indexes this controller's slices by their service.
	serviceField = "drayage.service"
	// everything is the index value of an empty selector and of every pod. No pair looks like it.
	everything = "="
)

func addIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &dcorev1.Service{}, selectorField, func(object client.Object) []string {
		selector := object.(*dcorev1.Service).Spec.Selector
		if selector == nil {
			return nil // which selects nothing, not everything
		}
		return []string{firstPair(selector)}
	})
	if err != nil {
		return fmt.Errorf("indexing services by selector: %w", err)
	}
	err = indexer.IndexField(ctx, &dcorev1.Pod{}, labelField, func(object client.Object) []string {
		return pairs(object.GetLabels())
	})
	if err != nil {
		return fmt.Errorf("indexing pods by label: %w", err)
	}
	err = indexer.IndexField(ctx, &ddiscoveryv1.EndpointSlice{}, serviceField, func(object client.Object) []string {
		if object.GetLabels()[discoveryv1.LabelManagedBy] != ManagedBy {
			return nil
		}
		return []string{object.GetLabels()[discoveryv1.LabelServiceName]}
	})
	if err != nil {
		return fmt.Errorf("indexing EndpointSlices by service: %w", err)
	}
	return nil
}

// firstPair is the pair that a selector is found by. The longest is taken for the most telling.
func firstPair(selector map[string]string) string {
	all := pairs(selector)
	return slices.MaxFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
}

func pairs(set map[string]string) []string {
	list := []string{everything}
	for key, value := range maps.All(set) {
		list = append(list, key+"="+value)
	}
	return list
}

// servicesOf lists the services that select a pod with such labels. They are the cache's own.
func (r *reconciler) servicesOf(ctx context.Context, namespace string, set map[string]string) ([]*dcorev1.Service, error) {
	var found []*dcorev1.Service
	for _, pair := range pairs(set) {
		var list dcorev1.ServiceList
		err := r.client.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{selectorField: pair}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return nil, fmt.Errorf("listing services by selector: %w", err)
		}
		for i := range list.Items {
			if labels.ValidatedSetSelector(list.Items[i].Spec.Selector).Matches(labels.Set(set)) {
				found = append(found, &list.Items[i])
			}
		}
	}
	return found, nil
}
