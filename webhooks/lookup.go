package webhooks

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	dschedulingv1 "drayage.dev/apis/scheduling/v1"
	"drayage.dev/internal/admission"
)

// syncTimeout bounds the wait for the cache of priority classes, as upstream's plugins wait.
const syncTimeout = 10 * time.Second

// informerLookup is the plugin's admission.Lookup and admission.Namespaces, over informers of the API
// server it lives in.
type informerLookup struct {
	client     kubernetes.Interface
	dynamic    dynamic.Interface
	accounts   corev1listers.ServiceAccountLister
	namespaces corev1listers.NamespaceLister
	stop       <-chan struct{}

	start   sync.Once
	classes cache.SharedIndexInformer
}

var priorityClasses = dschedulingv1.GroupVersion.WithResource("priorityclasses")

// store returns the cached priority classes. The cache starts with the first request, when the API
// server serves its custom resources: begun earlier, its back-off would make the first requests wait.
func (l *informerLookup) store(ctx context.Context) (cache.Store, error) {
	l.start.Do(func() {
		l.classes = dynamicinformer.NewFilteredDynamicInformer(l.dynamic, priorityClasses, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
		// The cache holds typed objects, converted once and not for every pod.
		_ = l.classes.SetTransform(func(object any) (any, error) {
			if u, ok := object.(*unstructured.Unstructured); ok {
				return toClass(u)
			}
			return object, nil
		})
		go l.classes.Run(l.stop)
	})
	if l.classes.HasSynced() {
		return l.classes.GetStore(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), l.classes.HasSynced) {
		return nil, apierrors.NewServiceUnavailable("the cache of priority classes is not filled yet")
	}
	return l.classes.GetStore(), nil
}

func toClass(u *unstructured.Unstructured) (*schedulingv1.PriorityClass, error) {
	class := &schedulingv1.PriorityClass{}
	return class, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, class)
}

func (l *informerLookup) PriorityClass(ctx context.Context, name string) (*schedulingv1.PriorityClass, error) {
	store, err := l.store(ctx)
	if err != nil {
		return nil, err
	}
	if object, ok, _ := store.GetByKey(name); ok {
		return object.(*schedulingv1.PriorityClass), nil
	}
	u, err := l.dynamic.Resource(priorityClasses).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return toClass(u)
}

func (l *informerLookup) DefaultPriorityClass(ctx context.Context) (*schedulingv1.PriorityClass, error) {
	store, err := l.store(ctx)
	if err != nil {
		return nil, err
	}
	var found *schedulingv1.PriorityClass
	for _, object := range store.List() {
		if c := object.(*schedulingv1.PriorityClass); c.GlobalDefault && (found == nil || found.Value > c.Value) {
			found = c
		}
	}
	return found, nil
}

func (l *informerLookup) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	account, err := l.accounts.ServiceAccounts(namespace).Get(name)
	if err == nil || !apierrors.IsNotFound(err) {
		return account, err
	}
	return admission.AwaitServiceAccount(ctx, name, func(ctx context.Context) (*corev1.ServiceAccount, error) {
		return l.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	})
}

func (l *informerLookup) Namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	namespace, err := l.namespaces.Get(name)
	if apierrors.IsNotFound(err) {
		return l.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	}
	return namespace, err
}
