package apiserver

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
)

const (
	// surgeTimeout is how long an eviction waits for a replacement that does not become ready, counted from
	// the first request or from the newest replacement's creation. After it the budget alone decides.
	surgeTimeout = 3 * time.Minute
	// markInterval is how often the request is noted anew on a pod that waits, which is less often than
	// clients ask.
	markInterval = 20 * time.Second
)

// surge makes evictions of a Deployment's pods wait for their replacements where the Deployment may have more
// pods than replicas for a while. It marks the pod; the ReplicaSet controller makes one more pod for each
// mark, as far as maxSurge goes; the client asks again, and goes on to the budget once the replacement is
// available. A client that stops asking leaves a mark that runs out, and nothing is deleted.
type surge struct {
	store evictionStore
	clock clock.PassiveClock
}

// await returns nil when the eviction of pod need not wait, and a TooManyRequests that says for what it waits
// otherwise.
func (s surge) await(ctx context.Context, pod *corev1.Pod) error {
	if !podutil.IsPodReady(pod) {
		return nil
	}
	set, deployment, err := s.owners(ctx, pod)
	if err != nil || set == nil {
		return err
	}
	pods := &dcorev1.PodList{}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return nil
	}
	if err := s.store.client.List(ctx, pods, client.InNamespace(pod.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return err
	}
	now := s.clock.Now()
	f := newFleet(set, pods.Items, int(deploymentutil.MaxSurge(*deployment)), now)
	verdict, cause := f.judge(pod)
	if verdict == goOn {
		return nil
	}
	if verdict == asks {
		if err := s.mark(ctx, pod, now); err != nil {
			return err
		}
	}
	refused := apierrors.NewTooManyRequests(fmt.Sprintf(
		"Cannot evict pod yet: Deployment %s may surge, so a replacement has to be ready first.", deployment.Name), 0)
	refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{Type: "WaitingForReplacement", Message: cause})
	return refused
}

// owners returns the ReplicaSet of pod and its Deployment, nothing where there is no Deployment that may surge.
func (s surge) owners(ctx context.Context, pod *corev1.Pod) (*appsv1.ReplicaSet, *appsv1.Deployment, error) {
	set, deployment := &dappsv1.ReplicaSet{}, &dappsv1.Deployment{}
	for _, step := range []struct {
		below client.Object
		kind  string
		into  client.Object
	}{{pod, "ReplicaSet", set}, {set, "Deployment", deployment}} {
		owner := metav1.GetControllerOfNoCopy(step.below)
		if owner == nil || owner.Kind != step.kind || owner.APIVersion != dappsv1.GroupVersion.String() {
			return nil, nil, nil
		}
		err := s.store.client.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: owner.Name}, step.into)
		if apierrors.IsNotFound(err) || err == nil && step.into.GetUID() != owner.UID {
			return nil, nil, nil
		}
		if err != nil {
			return nil, nil, err
		}
	}
	known := upstream.Deployment(deployment)
	if known.DeletionTimestamp != nil || known.Spec.Strategy.RollingUpdate == nil || deploymentutil.MaxSurge(*known) == 0 {
		return nil, nil, nil
	}
	return upstream.ReplicaSet(set), known, nil
}

// mark notes on the pod that its eviction is wanted now.
func (s surge) mark(ctx context.Context, pod *corev1.Pod, now time.Time) error {
	mark := corev1.PodCondition{
		Type: dcorev1.PodEvictionRequested, Status: corev1.ConditionTrue, Reason: dcorev1.PodEvictionByEvictionAPI,
		Message:       "Eviction API: waiting until a replacement is ready",
		LastProbeTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
	_, err := s.store.patchStatus(ctx, pod.Namespace, pod.Name, &metav1.Preconditions{UID: &pod.UID}, func(status *corev1.PodStatus) bool {
		at, current := podutil.GetPodCondition(status, mark.Type)
		if current == nil {
			status.Conditions = append(status.Conditions, mark)
			return true
		}
		fresh := mark
		if requested(current, now) {
			fresh.LastTransitionTime = current.LastTransitionTime
		}
		status.Conditions[at] = fresh
		return true
	})
	return err
}

// requested says whether somebody has asked lately for the eviction that condition speaks of.
func requested(condition *corev1.PodCondition, now time.Time) bool {
	return condition != nil && condition.Status == corev1.ConditionTrue && now.Sub(condition.LastProbeTime.Time) < dcorev1.EvictionRequestPatience
}

// verdict is what an eviction has to do.
type verdict int

const (
	goOn verdict = iota
	// waits needs no new mark.
	waits
	// asks has a mark to set or to renew, and waits.
	asks
)

// fleet is the pods of one ReplicaSet as evictions see them.
type fleet struct {
	replicas, maxSurge int
	minReadySeconds    int32
	now                time.Time
	pods               []*corev1.Pod
	// leaving are the pods whose replacements are being made: of those that are marked the first, as many as
	// may surge. Every server that looks sees the same ones.
	leaving []*corev1.Pod
	// newest is when the youngest pod was made.
	newest time.Time
}

func newFleet(set *appsv1.ReplicaSet, pods []dcorev1.Pod, maxSurge int, now time.Time) *fleet {
	f := &fleet{replicas: int(ptr.Deref(set.Spec.Replicas, 1)), maxSurge: maxSurge, minReadySeconds: set.Spec.MinReadySeconds, now: now}
	for i := range pods {
		pod := upstream.Pod(&pods[i])
		if !metav1.IsControlledBy(pod, set) || !controller.IsPodActive(pod) {
			continue
		}
		f.pods = append(f.pods, pod)
		if pod.CreationTimestamp.After(f.newest) {
			f.newest = pod.CreationTimestamp.Time
		}
		if requested(markOf(pod), now) {
			f.leaving = append(f.leaving, pod)
		}
	}
	slices.SortFunc(f.leaving, func(a, b *corev1.Pod) int {
		return cmp.Or(markOf(a).LastTransitionTime.Compare(markOf(b).LastTransitionTime.Time), strings.Compare(a.Name, b.Name))
	})
	f.leaving = f.leaving[:min(len(f.leaving), maxSurge)]
	return f
}

// judge says how the eviction of pod goes on, and why it waits.
func (f *fleet) judge(pod *corev1.Pod) (verdict, string) {
	mark := markOf(pod)
	if !requested(mark, f.now) {
		switch {
		case f.available(nil) < f.replicas:
			return goOn, "" // short of pods anyway: a replacement would be one of those that are missing
		case f.available(append(slices.Clone(f.leaving), pod)) >= f.replicas:
			return goOn, "" // one too many, as while the Deployment scales down
		}
		return asks, "a replacement is being started"
	}
	since := mark.LastTransitionTime.Time
	if f.newest.After(since) {
		since = f.newest
	}
	staying := f.available(f.leaving)
	leaves := contains(f.leaving, pod)
	if leaves && staying >= f.replicas || f.now.Sub(since) > surgeTimeout {
		return goOn, ""
	}
	next := waits
	if f.now.Sub(mark.LastProbeTime.Time) > markInterval {
		next = asks
	}
	if !leaves {
		return next, fmt.Sprintf("the replacements of %d other pods come first (maxSurge %d)", len(f.leaving), f.maxSurge)
	}
	return next, fmt.Sprintf("%d of %d replicas are available without the pods that leave", staying, f.replicas)
}

// available counts the pods that have been ready for long enough, without some.
func (f *fleet) available(without []*corev1.Pod) int {
	count := 0
	for _, pod := range f.pods {
		if !contains(without, pod) && podutil.IsPodAvailable(pod, f.minReadySeconds, metav1.NewTime(f.now)) {
			count++
		}
	}
	return count
}

func markOf(pod *corev1.Pod) *corev1.PodCondition {
	_, mark := podutil.GetPodCondition(&pod.Status, dcorev1.PodEvictionRequested)
	return mark
}

func contains(pods []*corev1.Pod, pod *corev1.Pod) bool {
	return slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.UID == pod.UID })
}
