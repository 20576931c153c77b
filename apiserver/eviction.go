package apiserver

import (
	"context"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/util/retry"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install" // Eviction, in the scheme of the API machinery
	"k8s.io/utils/ptr"
)

// evictionKind is what a client sends.
var evictionKind = policyv1.SchemeGroupVersion.WithKind("Eviction")

// evictionRetries bounds how often an eviction looks anew at what changes under it. Upstream's numbers.
var evictionRetries = wait.Backoff{Steps: 20, Duration: 500 * time.Millisecond, Factor: 1, Jitter: 0.1}

// evictionREST is pods/eviction: upstream's rules over Drayage's pods and budgets. Where a pod's Deployment may
// surge, the pod's replacement comes first (surge.go).
type evictionREST struct {
	store evictionStore
	surge surge
}

var (
	_ rest.NamedCreater             = &evictionREST{}
	_ rest.GroupVersionKindProvider = &evictionREST{}
	_ rest.GroupVersionAcceptor     = &evictionREST{}
	_ rest.Storage                  = &evictionREST{}
)

// New returns what the body is read into.
func (*evictionREST) New() runtime.Object { return &policy.Eviction{} }

// Destroy has nothing to give back.
func (*evictionREST) Destroy() {}

// GroupVersionKind says that the body is upstream's, whatever the group of the resource.
func (*evictionREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return evictionKind
}

// AcceptsGroupVersion says which versions of it there are.
func (*evictionREST) AcceptsGroupVersion(version schema.GroupVersion) bool {
	return version == policyv1.SchemeGroupVersion
}

// Create evicts the pod name: it answers with success when the pod's deletion has begun, with
// TooManyRequests when a budget does not allow it or the replacement is not ready, and in upstream's words
// otherwise.
func (r *evictionREST) Create(
	ctx context.Context, name string, object runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions,
) (runtime.Object, error) {
	eviction, ok := object.(*policy.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", object))
	}
	deletion, err := deleteOptions(name, eviction, options)
	if err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, eviction.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	e := &evicting{
		evictionREST: r, namespace: genericapirequest.NamespaceValue(ctx), name: name,
		options: deletion, dryRun: dryrun.IsDryRun(deletion.DryRun),
		pinned: deletion.Preconditions != nil && deletion.Preconditions.ResourceVersion != nil,
	}
	return e.run(ctx)
}

// deleteOptions are those of the eviction, with the dry run that the request asks for.
func deleteOptions(name string, eviction *policy.Eviction, options *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	if name != eviction.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	deletion := eviction.DeleteOptions
	if deletion == nil {
		return &metav1.DeleteOptions{DryRun: options.DryRun}, nil
	}
	if ptr.Deref(deletion.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		path := field.NewPath("deleteOptions").Child("ignoreStoreReadErrorWithClusterBreakingPotential")
		return nil, apierrors.NewInvalid(evictionKind.GroupKind(), name, field.ErrorList{
			field.Invalid(path, true, "can not be set for pod eviction, try after removing the option")})
	}
	switch {
	case len(deletion.DryRun) == 0:
		deletion.DryRun = options.DryRun
	case len(options.DryRun) > 0 && !reflect.DeepEqual(options.DryRun, deletion.DryRun):
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", options.DryRun, deletion.DryRun) //nolint:staticcheck // upstream's words
	}
	return deletion, nil
}

// evicting is one eviction.
type evicting struct {
	*evictionREST
	namespace, name string
	options         *metav1.DeleteOptions
	dryRun          bool
	// pinned says that the client insists on one version of the pod.
	pinned bool
}

func (e *evicting) run(ctx context.Context) (runtime.Object, error) {
	pod, done, err := e.withoutBudget(ctx)
	switch {
	case err != nil:
		return nil, err
	case done:
		return success(), nil
	}
	// A client that insists on a version would meet another after the mark.
	if !e.dryRun && !e.pinned {
		if err := e.surge.await(ctx, pod); err != nil {
			return nil, err
		}
	}
	budgets, err := e.store.budgetsOf(ctx, pod)
	if err != nil {
		return nil, err
	}
	if len(budgets) > 1 {
		return &metav1.Status{
			Status: metav1.StatusFailure, Code: 500,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}, nil
	}
	if len(budgets) == 0 {
		if err := e.remove(ctx, e.options); err != nil {
			return nil, err
		}
		return success(), nil
	}
	budget := &budgets[0]
	if !podutil.IsPodReady(pod) && sparesBudget(budget) {
		// The pod counts for nothing in the budget. Whether it still does is for the version to say.
		err := e.remove(ctx, pinnedTo(e.options, pod))
		if apierrors.IsConflict(err) && !e.pinned {
			return nil, tooManyRequests(budget.Name)
		}
		if err != nil {
			return nil, err
		}
		return success(), nil
	}
	if err := e.take(ctx, budget); err != nil {
		return nil, err
	}
	if err := e.remove(ctx, e.options); err != nil {
		return nil, err
	}
	return success(), nil
}

// withoutBudget removes a pod that no budget counts: one that has ended or that does not run yet. It returns
// the pod otherwise.
func (e *evicting) withoutBudget(ctx context.Context) (pod *corev1.Pod, done bool, err error) {
	again := apierrors.IsConflict
	if e.pinned {
		again = func(error) bool { return false }
	}
	err = retry.OnError(evictionRetries, again, func() error {
		if pod, err = e.store.pod(ctx, e.namespace, e.name); err != nil {
			return err
		}
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
		if !ended && pod.Status.Phase != corev1.PodPending {
			return nil
		}
		options := e.options
		if !ended && !e.pinned {
			// It may start running this moment, and count from then on.
			options = pinnedTo(options, pod)
		}
		if err := e.remove(ctx, options); err != nil {
			return err
		}
		done = true
		return nil
	})
	return pod, done, err
}

// take takes one disruption from the budget.
func (e *evicting) take(ctx context.Context, budget *policyv1.PodDisruptionBudget) error {
	name, stale := budget.Name, false
	err := retry.RetryOnConflict(evictionRetries, func() (err error) {
		if stale {
			if budget, err = e.store.budget(ctx, e.namespace, name); err != nil {
				return err
			}
		}
		stale = true
		if err := grant(budget, e.name, time.Now()); err != nil || e.dryRun {
			return err
		}
		return e.store.updateBudget(ctx, budget)
	})
	if apierrors.IsConflict(err) {
		return apierrors.NewTimeoutError(fmt.Sprintf("couldn't update PodDisruptionBudget %q due to conflicts", name), 10)
	}
	return err
}

// remove marks the pod as disrupted and deletes it.
func (e *evicting) remove(ctx context.Context, options *metav1.DeleteOptions) error {
	if e.dryRun {
		return e.store.delete(ctx, e.namespace, e.name, options)
	}
	pod, err := e.store.patchStatus(ctx, e.namespace, e.name, options.Preconditions, func(status *corev1.PodStatus) bool {
		return podutil.UpdatePodCondition(status, disrupted())
	})
	if err != nil {
		return err
	}
	if options.Preconditions != nil && options.Preconditions.ResourceVersion != nil {
		// The condition is ours: who insists on the version before it means this one.
		options = pinnedTo(options, pod)
	}
	return e.store.end(ctx, pod, options)
}

// pinnedTo returns options that insist on the version of pod.
func pinnedTo(options *metav1.DeleteOptions, pod *corev1.Pod) *metav1.DeleteOptions {
	options = options.DeepCopy()
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	options.Preconditions.ResourceVersion = ptr.To(pod.ResourceVersion)
	return options
}

func success() *metav1.Status { return &metav1.Status{Status: metav1.StatusSuccess} }
