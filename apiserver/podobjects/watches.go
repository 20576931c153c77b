package podobjects

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// kind is what the broker watches: the kinds it streams, and the service accounts it reads itself.
type kind string

const (
	secretKind         kind = "Secret"
	configMapKind      kind = "ConfigMap"
	serviceAccountKind kind = "ServiceAccount"
)

// minWatchTimeout keeps watches that hardly ever see an event from being made anew every five minutes;
// it is kubelet's choice for its watches of single objects.
const minWatchTimeout = 30 * time.Minute

// linger is how long an object stays watched when nobody needs it any more: a pod that is replaced, or the
// first one of a namespace after a while, finds its service account and the cluster's root certificate
// known.
const linger = time.Minute

// key names one object.
type key struct {
	kind      kind
	namespace string
	name      string
}

// subscriber is told that an object that it acquired has changed or has become known. It must not block
// and must not call back.
type subscriber interface{ changed(key) }

// watches holds one watch for each object that some subscriber has acquired.
type watches struct {
	// ctx ends all watches.
	ctx    context.Context
	client kubernetes.Interface
	linger time.Duration

	mu      sync.Mutex
	objects map[key]*object
}

// object is the state of one watched object. The lock of its watches guards it.
type object struct {
	stop context.CancelFunc
	// idle runs while there is no subscriber, and stops the watch in the end.
	idle        *time.Timer
	subscribers map[subscriber]struct{}
	// known is set by the first list; until then nobody knows whether the object exists.
	known bool
	// current is nil when there is no such object. It is never written to.
	current metav1.Object
}

func newWatches(ctx context.Context, client kubernetes.Interface) *watches {
	return &watches{ctx: ctx, client: client, linger: linger, objects: map[key]*object{}}
}

// acquire keeps k watched until release. s is told at once when the object's state is known already.
func (w *watches) acquire(k key, s subscriber) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.objects[k]
	if !ok {
		ctx, cancel := context.WithCancel(w.ctx)
		o = &object{stop: cancel, subscribers: map[subscriber]struct{}{}}
		w.objects[k] = o
		go w.follow(ctx, k, &objectStore{watches: w, key: k, object: o})
	}
	if o.idle != nil {
		o.idle.Stop()
	}
	o.subscribers[s] = struct{}{}
	if o.known {
		s.changed(k)
	}
}

// release ends s's interest in k. The watch stops a while after the last one has left.
func (w *watches) release(k key, s subscriber) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.objects[k]
	if !ok {
		return
	}
	delete(o.subscribers, s)
	if len(o.subscribers) == 0 {
		o.idle = time.AfterFunc(w.linger, func() { w.forget(k, o) })
	}
}

// forget stops the watch of k unless somebody has come back to it.
func (w *watches) forget(k key, o *object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(o.subscribers) == 0 && w.objects[k] == o {
		o.stop()
		delete(w.objects, k)
	}
}

// get returns the object (nil: it does not exist) and whether that is known.
func (w *watches) get(k key) (metav1.Object, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o, ok := w.objects[k]; ok {
		return o.current, o.known
	}
	return nil, false
}

// follow keeps store at the state of the object k until ctx ends.
func (w *watches) follow(ctx context.Context, k key, store *objectStore) {
	from := w.source(k)
	// A watch waits for the API server's cache to catch up before it begins, a tenth of a second where
	// little is written; a pod that starts should not. An error is the watch's to meet again.
	if current, err := from.get(ctx); err == nil {
		store.set(current)
	} else if apierrors.IsNotFound(err) {
		store.set(nil)
	}
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(&from.lw, w.client), from.expected, store, cache.ReflectorOptions{
		Name:            "podobjects " + string(k.kind) + " " + k.namespace + "/" + k.name,
		MinWatchTimeout: minWatchTimeout,
	}).RunWithContext(ctx)
}

// source is how one object is read.
type source struct {
	get      func(context.Context) (metav1.Object, error)
	lw       cache.ListWatch
	expected runtime.Object
}

func (w *watches) source(k key) source {
	core := w.client.CoreV1()
	switch k.kind {
	case secretKind:
		return sourceOf[*corev1.Secret, *corev1.SecretList](core.Secrets(k.namespace), k.name, &corev1.Secret{})
	case configMapKind:
		return sourceOf[*corev1.ConfigMap, *corev1.ConfigMapList](core.ConfigMaps(k.namespace), k.name, &corev1.ConfigMap{})
	default:
		return sourceOf[*corev1.ServiceAccount, *corev1.ServiceAccountList](core.ServiceAccounts(k.namespace), k.name, &corev1.ServiceAccount{})
	}
}

// reader is what the clients of all kinds have in common.
type reader[T, L any] interface {
	Get(context.Context, string, metav1.GetOptions) (T, error)
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func sourceOf[T metav1.Object, L runtime.Object](client reader[T, L], name string, expected runtime.Object) source {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	return source{
		get: func(ctx context.Context) (metav1.Object, error) { return client.Get(ctx, name, metav1.GetOptions{}) },
		lw: cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.FieldSelector = selector
				return client.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.FieldSelector = selector
				return client.Watch(ctx, o)
			},
		},
		expected: expected,
	}
}

// objectStore receives what a reflector of one object sees.
type objectStore struct {
	watches *watches
	key     key
	object  *object
}

var _ cache.ReflectorStore = &objectStore{}

func (s *objectStore) Add(obj any) error { return s.Update(obj) }
func (s *objectStore) Resync() error     { return nil }

func (s *objectStore) Update(obj any) error {
	if o := s.only(obj); o != nil {
		s.set(o)
	}
	return nil
}

func (s *objectStore) Delete(obj any) error {
	if s.only(obj) != nil {
		s.set(nil)
	}
	return nil
}

func (s *objectStore) Replace(list []any, _ string) error {
	var current metav1.Object
	for _, obj := range list {
		if o := s.only(obj); o != nil {
			current = o
		}
	}
	s.set(current)
	return nil
}

// only returns obj if it is the object of this store. That is not left to a selector alone: what goes to
// a node under a name must be what has that name.
func (s *objectStore) only(obj any) metav1.Object {
	if o, ok := obj.(metav1.Object); ok && o.GetName() == s.key.name && o.GetNamespace() == s.key.namespace {
		return o
	}
	return nil
}

// set makes current the object's state and tells the subscribers, unless it is the state already: a
// list after a broken watch mostly brings nothing new.
func (s *objectStore) set(current metav1.Object) {
	s.watches.mu.Lock()
	defer s.watches.mu.Unlock()
	o := s.object
	if o.known && same(o.current, current) {
		return
	}
	o.known, o.current = true, current
	for subscriber := range o.subscribers {
		subscriber.changed(s.key)
	}
}

func same(a, b metav1.Object) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.GetUID() == b.GetUID() && a.GetResourceVersion() == b.GetResourceVersion()
}
