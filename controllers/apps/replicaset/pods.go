package replicaset

import (
	"context"
	"errors"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controllers/apps/claim"
	"drayage.dev/internal/upstream"
)

// observe reads what a pass decides upon, after adopting and releasing pods.
func (r *reconciler) observe(ctx context.Context, set *dappsv1.ReplicaSet) (observed, error) {
	seen := observed{set: upstream.ReplicaSet(set)}
	if seen.set.Spec.Replicas == nil {
		// What admission would have set.
		seen.set.Spec.Replicas = ptr.To[int32](1)
	}
	var err error
	if seen.selector, err = metav1.LabelSelectorAsSelector(set.Spec.Selector); err != nil {
		return observed{}, fmt.Errorf("reading the selector of ReplicaSet %s: %w", client.ObjectKeyFromObject(set), err)
	}
	candidates, terminating, err := r.candidates(ctx, set)
	if err != nil {
		return observed{}, err
	}
	claimed, err := claim.Objects(ctx, claim.Owner{
		Object: set, Kind: kind, Selector: seen.selector, Client: r.client, Live: r.live,
	}, candidates)
	if err != nil {
		return observed{}, fmt.Errorf("claiming the pods of ReplicaSet %s: %w", client.ObjectKeyFromObject(set), err)
	}
	for _, pod := range claimed {
		seen.active = append(seen.active, upstream.Pod(pod))
	}
	seen.terminating = controller.FilterClaimedPods(set, seen.selector, terminating)
	if going, _ := leaving(seen.active, r.clock.Now()); len(going) > 0 {
		siblings, err := r.siblings(ctx, set)
		if err != nil {
			return observed{}, err
		}
		seen.surge = surgeFor(seen.set, siblings, len(going))
	}
	return seen, nil
}

// candidates lists the active pods that set controls or might adopt, and those that are terminating.
func (r *reconciler) candidates(ctx context.Context, set *dappsv1.ReplicaSet) (active []*dcorev1.Pod, terminating []*corev1.Pod, err error) {
	var owned, orphans dcorev1.PodList
	if err := claim.Controlled(ctx, r.client, set, &owned); err != nil {
		return nil, nil, err
	}
	if err := claim.Orphans(ctx, r.client, set.Namespace, &orphans); err != nil {
		return nil, nil, err
	}
	for _, items := range [][]dcorev1.Pod{owned.Items, orphans.Items} {
		for i := range items {
			pod := upstream.Pod(&items[i])
			if controller.IsPodActive(pod) {
				active = append(active, &items[i])
			} else if controller.IsPodTerminating(pod) {
				terminating = append(terminating, pod)
			}
		}
	}
	return active, terminating, nil
}

// scale creates what is missing or deletes what is too much, a burst at most.
func (r *reconciler) scale(ctx context.Context, seen observed) error {
	set := upstream.FromReplicaSet(seen.set)
	switch surplus := seen.surplus(); {
	case surplus < 0:
		return r.create(ctx, set, -surplus)
	case surplus > 0:
		related, err := r.relatedPods(ctx, set)
		if err != nil {
			return err
		}
		return r.delete(ctx, set, leastNeeded(seen.active, related, surplus, r.clock.Now()))
	}
	return nil
}

func (r *reconciler) create(ctx context.Context, set *dappsv1.ReplicaSet, count int) error {
	key, logger := client.ObjectKeyFromObject(set).String(), klog.FromContext(ctx)
	if err := r.expectations.ExpectCreations(logger, key, count); err != nil {
		return err
	}
	created, err := slowStart(count, func() error {
		err := r.createPod(ctx, set)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			// Every creation would fail, and the ReplicaSet is about to be deleted.
			return nil
		}
		return err
	})
	// What was not created will never be seen.
	r.expectations.LowerExpectations(logger, key, count-created, 0)
	return err
}

func (r *reconciler) createPod(ctx context.Context, set *dappsv1.ReplicaSet) error {
	pod, err := controller.GetPodFromTemplate(&set.Spec.Template, set, metav1.NewControllerRef(set, kind))
	if err != nil {
		return err
	}
	pod.Namespace = set.Namespace
	err = r.prepareAndCreate(ctx, pod)
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			r.recorder.Eventf(set, corev1.EventTypeWarning, controller.FailedCreatePodReason, "Error creating: %v", err)
		}
		return err
	}
	r.recorder.Eventf(set, corev1.EventTypeNormal, controller.SuccessfulCreatePodReason, "Created pod: %v", pod.Name)
	return nil
}

func (r *reconciler) prepareAndCreate(ctx context.Context, pod *corev1.Pod) error {
	if len(pod.Labels) == 0 {
		return errors.New("unable to create pods, no labels")
	}
	if r.prepare != nil {
		warnings, errs := r.prepare(ctx, pod)
		for _, warning := range warnings {
			log.FromContext(ctx).V(1).Info("prepared a pod", "warning", warning)
		}
		if len(errs) > 0 {
			return apierrors.NewInvalid(dcorev1.GroupVersion.WithKind("Pod").GroupKind(), pod.GenerateName, errs)
		}
	}
	created := upstream.FromPod(pod)
	if err := r.client.Create(ctx, created); err != nil {
		return err
	}
	pod.Name = created.Name
	return nil
}

func (r *reconciler) delete(ctx context.Context, set *dappsv1.ReplicaSet, pods []*corev1.Pod) error {
	key, logger := client.ObjectKeyFromObject(set).String(), klog.FromContext(ctx)
	keys := make([]string, len(pods))
	for i, pod := range pods {
		keys[i] = controller.PodKey(pod)
	}
	if err := r.expectations.ExpectDeletions(logger, key, keys); err != nil {
		return err
	}
	errs := make([]error, len(pods))
	var wait sync.WaitGroup
	for i, pod := range pods {
		wait.Go(func() {
			if err := r.deletePod(ctx, set, pod); err != nil {
				// No event will tell of this pod.
				r.expectations.DeletionObserved(logger, key, keys[i])
				errs[i] = client.IgnoreNotFound(err)
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			// They are most likely all the same, and each has its event.
			return err
		}
	}
	return nil
}

func (r *reconciler) deletePod(ctx context.Context, set *dappsv1.ReplicaSet, pod *corev1.Pod) error {
	err := r.client.Delete(ctx, upstream.FromPod(pod), client.Preconditions{UID: &pod.UID})
	switch {
	case apierrors.IsNotFound(err):
		return err
	case err != nil:
		r.recorder.Eventf(set, corev1.EventTypeWarning, controller.FailedDeletePodReason, "Error deleting: %v", err)
		return fmt.Errorf("unable to delete pods: %w", err)
	}
	r.recorder.Eventf(set, corev1.EventTypeNormal, controller.SuccessfulDeletePodReason, "Deleted pod: %v", pod.Name)
	return nil
}

// siblings lists the ReplicaSets that share set's owner, set among them; none without an owner.
func (r *reconciler) siblings(ctx context.Context, set *dappsv1.ReplicaSet) ([]*appsv1.ReplicaSet, error) {
	reference := metav1.GetControllerOfNoCopy(set)
	if reference == nil {
		return nil, nil
	}
	owner := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: set.Namespace, UID: reference.UID}}
	var list dappsv1.ReplicaSetList
	if err := claim.Controlled(ctx, r.client, owner, &list); err != nil {
		return nil, err
	}
	siblings := make([]*appsv1.ReplicaSet, len(list.Items))
	for i := range list.Items {
		siblings[i] = upstream.ReplicaSet(&list.Items[i])
	}
	return siblings, nil
}

// relatedPods lists the pods of every ReplicaSet that shares set's owner, set's own among them.
func (r *reconciler) relatedPods(ctx context.Context, set *dappsv1.ReplicaSet) ([]*corev1.Pod, error) {
	siblings, err := r.siblings(ctx, set)
	if err != nil {
		return nil, err
	}
	var related []*corev1.Pod
	for _, sibling := range siblings {
		var pods dcorev1.PodList
		if err := claim.Controlled(ctx, r.client, sibling, &pods); err != nil {
			return nil, err
		}
		for j := range pods.Items {
			related = append(related, upstream.Pod(&pods.Items[j]))
		}
	}
	return related, nil
}

// slowStart calls do count times in batches of 1, 2, 4 and so on, each batch at once, and stops after a
// batch in which a call went wrong: so that a quota that refuses the first pod is asked once, not five
// hundred times. It returns how many calls went well, and one of the errors.
func slowStart(count int, do func() error) (int, error) {
	done := 0
	for batch := controller.SlowStartInitialBatchSize; done < count; batch *= 2 {
		size := min(batch, count-done)
		errs := make(chan error, size)
		var wait sync.WaitGroup
		for range size {
			wait.Go(func() {
				if err := do(); err != nil {
					errs <- err
				}
			})
		}
		wait.Wait()
		done += size - len(errs)
		if len(errs) > 0 {
			return done, <-errs
		}
	}
	return done, nil
}
