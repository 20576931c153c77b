package scheduler

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// source lists and watches one of Drayage's resources and yields upstream's kind of the same name.
type source struct {
	api      rest.Interface
	resource string
	// list returns an empty list of Drayage's kind, to decode into.
	list func() runtime.Object
	// view turns one of Drayage's objects into upstream's.
	view func(runtime.Object) runtime.Object
	// into returns upstream's list of the given objects.
	into func(metav1.ListMeta, []runtime.Object) runtime.Object
	// hide, when set, keeps objects from the scheduler.
	hide func(runtime.Object) bool

	// hidden holds the UIDs of the hidden objects, so that each leaves the informer's store only once.
	mu     sync.Mutex
	hidden map[types.UID]struct{}
}

func (s *source) listWatch() *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list := s.list()
			err := s.api.Get().Resource(s.resource).VersionedParams(&options, parameters).Do(ctx).Into(list)
			if err != nil {
				return nil, err
			}
			if options.Continue == "" {
				s.forget()
			}
			return s.viewList(list)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.Watch = true
			events, err := s.api.Get().Resource(s.resource).VersionedParams(&options, parameters).Watch(ctx)
			if err != nil {
				return nil, err
			}
			if options.SendInitialEvents != nil && *options.SendInitialEvents {
				s.forget()
			}
			return watch.Filter(events, s.viewEvent), nil
		},
	}
}

func (s *source) viewList(list runtime.Object) (runtime.Object, error) {
	from, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	var views []runtime.Object
	err = meta.EachListItem(list, func(object runtime.Object) error {
		if !s.hides(object) {
			views = append(views, s.view(object))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.into(metav1.ListMeta{
		ResourceVersion:    from.GetResourceVersion(),
		Continue:           from.GetContinue(),
		RemainingItemCount: from.GetRemainingItemCount(),
	}, views), nil
}

func (s *source) viewEvent(event watch.Event) (watch.Event, bool) {
	switch event.Type {
	case watch.Error:
		return event, true
	case watch.Added, watch.Modified:
		_, was := s.isHidden(event.Object)
		if s.hides(event.Object) {
			// The store's object ends here, exactly as under a field selector on the server.
			event.Type = watch.Deleted
			if was {
				return event, false
			}
		}
	case watch.Deleted:
		uid, was := s.isHidden(event.Object)
		if was {
			s.mu.Lock()
			delete(s.hidden, uid)
			s.mu.Unlock()
			return event, false
		}
	}
	event.Object = s.view(event.Object)
	return event, true
}

// hides reports whether object is to be hidden, and remembers it.
func (s *source) hides(object runtime.Object) bool {
	if s.hide == nil || !s.hide(object) {
		return false
	}
	uid, _ := s.isHidden(object)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hidden == nil {
		s.hidden = map[types.UID]struct{}{}
	}
	s.hidden[uid] = struct{}{}
	return true
}

func (s *source) isHidden(object runtime.Object) (types.UID, bool) {
	accessor, err := meta.Accessor(object)
	if err != nil {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, hidden := s.hidden[accessor.GetUID()]
	return accessor.GetUID(), hidden
}

// forget starts over: a new list follows.
func (s *source) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden = nil
}

// nothing is the source of a kind that Drayage does not have: an empty list and a watch without events.
func nothing(list runtime.Object) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			empty := list.DeepCopyObject()
			accessor, err := meta.ListAccessor(empty)
			if err != nil {
				return nil, err
			}
			accessor.SetResourceVersion("1")
			return empty, nil
		},
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
			return watch.NewProxyWatcher(make(chan watch.Event)), nil
		},
	}, listsOnly{})
}

// listsOnly tells reflectors to list before they watch: an empty source sends no initial events and no
// bookmark, and a reflector would wait for them.
type listsOnly struct{}

func (listsOnly) IsWatchListSemanticsUnSupported() bool { return true }

// ended reports whether the pod has run to its end; such pods hold no resources of their node.
func ended(status *corev1.PodStatus) bool {
	return status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed
}
