package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
)

// Lookup reads what a pod refers to. Answers are shared: nobody writes to them. An object that does not
// exist is answered by an error that apierrors.IsNotFound recognises.
type Lookup interface {
	// PriorityClass returns the class of that name.
	PriorityClass(ctx context.Context, name string) (*schedulingv1.PriorityClass, error)
	// DefaultPriorityClass returns the class marked as global default, the one of the lowest value where
	// a race has marked several, or nil.
	DefaultPriorityClass(ctx context.Context) (*schedulingv1.PriorityClass, error)
	// ServiceAccount returns a service account.
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
}
