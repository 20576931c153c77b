package admission

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	serviceaccountadmission "k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dschedulingv1 "drayage.dev/apis/scheduling/v1"
	"drayage.dev/internal/upstream"
)

// Lookup reads what a pod refers to. Answers are shared: nobody writes to them. An object that does not
// exist is answered by an error that apierrors.IsNotFound recognises.
type Lookup interface {
	// PriorityClass returns the class of that name.
	PriorityClass(ctx context.Context, name string) (*schedulingv1.PriorityClass, error)
	// DefaultPriorityClass returns the class marked as global default, the one of the lowest value where
	// a race has marked several, or nil.
	DefaultPriorityClass(ctx context.Context) (*schedulingv1.PriorityClass, error)
	// ServiceAccount returns a service account. It may wait a second or so for the account "default" of
	// a new namespace, as AwaitServiceAccount does.
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
}

// NewLookup returns a Lookup, which knows Namespaces too, that reads from cached and asks live for what is
// not there yet. The cache must know Drayage's PriorityClass, ServiceAccount and Namespace.
func NewLookup(cached, live client.Reader) Lookup {
	return &clientLookup{cached: cached, live: live}
}

type clientLookup struct{ cached, live client.Reader }

var _ Namespaces = &clientLookup{}

func (l *clientLookup) PriorityClass(ctx context.Context, name string) (*schedulingv1.PriorityClass, error) {
	class := &dschedulingv1.PriorityClass{}
	err := l.cached.Get(ctx, client.ObjectKey{Name: name}, class)
	if apierrors.IsNotFound(err) {
		err = l.live.Get(ctx, client.ObjectKey{Name: name}, class)
	}
	if err != nil {
		return nil, err
	}
	return upstream.PriorityClass(class), nil
}

func (l *clientLookup) DefaultPriorityClass(ctx context.Context) (*schedulingv1.PriorityClass, error) {
	list := &dschedulingv1.PriorityClassList{}
	if err := l.cached.List(ctx, list); err != nil {
		return nil, err
	}
	var found *schedulingv1.PriorityClass
	for i := range list.Items {
		if c := &list.Items[i]; c.GlobalDefault && (found == nil || found.Value > c.Value) {
			found = upstream.PriorityClass(c)
		}
	}
	return found, nil
}

func (l *clientLookup) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	key := client.ObjectKey{Namespace: namespace, Name: name}
	account := &corev1.ServiceAccount{}
	if err := l.cached.Get(ctx, key, account); err == nil || !apierrors.IsNotFound(err) {
		return account, err
	}
	return AwaitServiceAccount(ctx, name, func(ctx context.Context) (*corev1.ServiceAccount, error) {
		return account, l.live.Get(ctx, key, account)
	})
}

// Namespace implements Namespaces.
func (l *clientLookup) Namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	namespace := &corev1.Namespace{}
	err := l.cached.Get(ctx, client.ObjectKey{Name: name}, namespace)
	if apierrors.IsNotFound(err) {
		err = l.live.Get(ctx, client.ObjectKey{Name: name}, namespace)
	}
	return namespace, err
}

// AwaitServiceAccount asks live for an account that a cache does not have. The account "default" is made
// by a controller right after its namespace, so it is asked for during a second and a half, as upstream
// does; any other name once.
func AwaitServiceAccount(ctx context.Context, name string, live func(context.Context) (*corev1.ServiceAccount, error)) (*corev1.ServiceAccount, error) {
	if name != serviceaccountadmission.DefaultServiceAccountName {
		return live(ctx)
	}
	var account *corev1.ServiceAccount
	var last error
	err := wait.PollUntilContextTimeout(ctx, 150*time.Millisecond, 1500*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		account, last = live(ctx)
		if apierrors.IsNotFound(last) {
			return false, nil
		}
		return true, last
	})
	if wait.Interrupted(err) && last != nil {
		return nil, last
	}
	return account, err
}
