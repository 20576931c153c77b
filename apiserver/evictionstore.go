package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/internal/admission"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// statusRetries bounds how often the patch of a pod's status meets another one's, such as its agent's.
var statusRetries = wait.Backoff{Steps: 10, Duration: 20 * time.Millisecond, Factor: 1.5, Jitter: 0.2}

// evictionStore reads and writes what evictions are about, in the API itself and past every cache.
type evictionStore struct{ client client.Client }

func newEvictionStore(config *restclient.Config) (evictionStore, error) {
	config = restclient.CopyConfig(config)
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	config.QPS, config.RateLimiter = -1, nil // requests are limited where they come in
	api, err := client.New(config, client.Options{Scheme: scheme.New()})
	if err != nil {
		return evictionStore{}, fmt.Errorf("making the client for evictions: %w", err)
	}
	return evictionStore{api}, nil
}

func (s evictionStore) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &dcorev1.Pod{}
	if err := s.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
		return nil, err
	}
	return upstream.Pod(pod), nil
}

func (s evictionStore) budget(ctx context.Context, namespace, name string) (*policyv1.PodDisruptionBudget, error) {
	budget := &dpolicyv1.PodDisruptionBudget{}
	if err := s.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, budget); err != nil {
		return nil, err
	}
	return upstream.PodDisruptionBudget(budget), nil
}

// budgetsOf lists the budgets that cover pod.
func (s evictionStore) budgetsOf(ctx context.Context, pod *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	list := &dpolicyv1.PodDisruptionBudgetList{}
	if err := s.client.List(ctx, list, client.InNamespace(pod.Namespace)); err != nil {
		return nil, err
	}
	var covering []policyv1.PodDisruptionBudget
	for i := range list.Items {
		selector, err := metav1.LabelSelectorAsSelector(list.Items[i].Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			covering = append(covering, *upstream.PodDisruptionBudget(&list.Items[i]))
		}
	}
	return covering, nil
}

// updateBudget writes the budget's status at the version that was read: of two evictions that read the same
// budget, one is told of a conflict and looks again.
func (s evictionStore) updateBudget(ctx context.Context, budget *policyv1.PodDisruptionBudget) error {
	return s.client.Status().Update(ctx, upstream.FromPodDisruptionBudget(budget))
}

// patchStatus changes the status of the pod that the preconditions allow, where change says that there is
// something to change, and returns the pod as it is then.
func (s evictionStore) patchStatus(
	ctx context.Context, namespace, name string, preconditions *metav1.Preconditions, change func(*corev1.PodStatus) bool,
) (*corev1.Pod, error) {
	var pod *dcorev1.Pod
	refused := false
	err := retry.OnError(statusRetries, func(err error) bool { return apierrors.IsConflict(err) && !refused }, func() error {
		pod = &dcorev1.Pod{}
		if err := s.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
			return err
		}
		if err := mismatch(pod, preconditions); err != nil {
			refused = true
			return err
		}
		base := pod.DeepCopy()
		if !change(&pod.Status.PodStatus) {
			return nil
		}
		// A list is replaced as a whole, so the patch carries the version that it was read at.
		return s.client.Status().Patch(ctx, pod, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	})
	if err != nil {
		return nil, err
	}
	return upstream.Pod(pod), nil
}

// mismatch is the API server's answer to preconditions that do not hold.
func mismatch(pod *dcorev1.Pod, preconditions *metav1.Preconditions) error {
	if preconditions == nil {
		return nil
	}
	if uid := preconditions.UID; uid != nil && *uid != "" && *uid != pod.UID {
		return apierrors.NewConflict(dcorev1.Resource("pods"), pod.Name,
			fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *uid, pod.UID))
	}
	if version := preconditions.ResourceVersion; version != nil && *version != "" && *version != pod.ResourceVersion {
		return apierrors.NewConflict(dcorev1.Resource("pods"), pod.Name,
			fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *version, pod.ResourceVersion))
	}
	return nil
}

// end deletes the pod. The API server ignores the grace period of a custom resource's deletion, so it is
// carried to the agent first, as the deletion's own admission would where no version is insisted on.
func (s evictionStore) end(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) error {
	if options.GracePeriodSeconds == nil {
		return s.delete(ctx, pod.Namespace, pod.Name, options)
	}
	options = options.DeepCopy()
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	insisted := options.Preconditions.ResourceVersion
	carrier := &gracePatcher{store: s, version: insisted}
	options.Preconditions.ResourceVersion = nil
	if _, err := admission.PrepareDelete(ctx, pod, options, false, carrier); err != nil {
		return err
	}
	// The patches are ours: who insists on the version before them means this one.
	options.GracePeriodSeconds, options.Preconditions.ResourceVersion = nil, carrier.version
	return s.delete(ctx, pod.Namespace, pod.Name, options)
}

func (s evictionStore) delete(ctx context.Context, namespace, name string, options *metav1.DeleteOptions) error {
	pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	return s.client.Delete(ctx, pod, &client.DeleteOptions{
		GracePeriodSeconds: options.GracePeriodSeconds, Preconditions: options.Preconditions,
		PropagationPolicy: options.PropagationPolicy, DryRun: options.DryRun,
	})
}

// gracePatcher patches a pod; where a version is insisted on, only for as long as nobody else does.
type gracePatcher struct {
	store   evictionStore
	version *string
}

// PatchPod implements admission.PodPatcher.
func (p *gracePatcher) PatchPod(ctx context.Context, namespace, name string, mergePatch []byte) (*metav1.ObjectMeta, error) {
	if p.version != nil {
		var patch map[string]map[string]any
		if err := json.Unmarshal(mergePatch, &patch); err != nil {
			return nil, fmt.Errorf("reading the patch of a deletion: %w", err)
		}
		patch["metadata"]["resourceVersion"] = *p.version
		var err error
		if mergePatch, err = json.Marshal(patch); err != nil {
			return nil, fmt.Errorf("writing the patch of a deletion: %w", err)
		}
	}
	pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := p.store.client.Patch(ctx, pod, client.RawPatch(types.MergePatchType, mergePatch)); err != nil {
		return nil, err
	}
	if p.version != nil {
		p.version = &pod.ResourceVersion
	}
	return &pod.ObjectMeta, nil
}
