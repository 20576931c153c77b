package changes

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Of lists what the options select into list and watches what changes from there on, until ctx ends or the
// watch is stopped. A watch that the server ends goes on where it stopped; when it cannot, because the server has
// forgotten what came next, the last event is of type watch.Error.
func Of(ctx context.Context, api client.WithWatch, list client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
	if err := api.List(ctx, list, options...); err != nil {
		return nil, fmt.Errorf("listing %T to watch what changes: %w", list, err)
	}
	kind := list.DeepCopyObject().(client.ObjectList)
	follow := func(ctx context.Context, raw metav1.ListOptions) (watch.Interface, error) {
		watching, err := api.Watch(ctx, kind, append(options[:len(options):len(options)], &client.ListOptions{Raw: &raw})...)
		if err != nil {
			return nil, err
		}
		// That a watch could not be read any more because its end was asked for is no error.
		return watch.Filter(watching, func(event watch.Event) (watch.Event, bool) {
			return event, event.Type != watch.Error || ctx.Err() == nil
		}), nil
	}
	return watchtools.NewRetryWatcherWithContext(ctx, list.GetResourceVersion(), &cache.ListWatch{WatchFuncWithContext: follow})
}
