package scheduler

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// scheduledWorkers is how many conditions are written at a time.
const scheduledWorkers = 8

// DefaultAgentPatience is Config.AgentPatience where it is not set: agents write within a second, also busy ones.
const DefaultAgentPatience = 10 * time.Second

// scheduled sets PodScheduled=True, and clears the nomination, on pods that have a node. It looks at
// what is, not at what this process has bound, so that a crash between the two writes loses nothing and
// pods that were created with a node have the condition as well.
//
// Like a kubelet, the agent of the pod's node sets the condition with its first report, which saves one write
// per pod. So the condition's mere absence is left to the agent for a while. What says something wrong, a
// refusal or a nomination, is corrected at once.
type scheduled struct {
	pods     *podWriter
	patience time.Duration
	// handles tells which scheduler names are this scheduler's.
	handles func(schedulerName string) bool
	queue   workqueue.TypedRateLimitingInterface[cache.ObjectName]
}

func newScheduled(pods *podWriter, handles func(string) bool, patience time.Duration) *scheduled {
	return &scheduled{
		pods: pods, handles: handles, patience: patience,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]()),
	}
}

// handler feeds the queue from the pod informer.
func (s *scheduled) handler() cache.ResourceEventHandler {
	look := func(object any) {
		pod, ok := object.(*corev1.Pod)
		if !ok || !s.lacking(pod) {
			return
		}
		_, refusal := podutil.GetPodCondition(&pod.Status, corev1.PodScheduled)
		if refusal != nil || pod.Status.NominatedNodeName != "" {
			s.queue.Add(cache.MetaObjectToName(pod))
			return
		}
		s.queue.AddAfter(cache.MetaObjectToName(pod), s.patience)
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, object any) { look(object) }}
}

func (s *scheduled) lacking(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil || !s.handles(pod.Spec.SchedulerName) {
		return false
	}
	_, condition := podutil.GetPodCondition(&pod.Status, corev1.PodScheduled)
	return condition == nil || condition.Status != corev1.ConditionTrue || pod.Status.NominatedNodeName != ""
}

// run works until ctx ends.
func (s *scheduled) run(ctx context.Context) {
	var workers sync.WaitGroup
	for range scheduledWorkers {
		workers.Go(func() {
			for s.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	s.queue.ShutDown()
	workers.Wait()
}

func (s *scheduled) next(ctx context.Context) bool {
	key, stop := s.queue.Get()
	if stop {
		return false
	}
	defer s.queue.Done(key)
	if err := s.sync(ctx, key); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).V(2).Info("Retrying to report a pod as scheduled", "pod", key, "err", err)
		s.queue.AddRateLimited(key)
		return true
	}
	s.queue.Forget(key)
	return true
}

func (s *scheduled) sync(ctx context.Context, key cache.ObjectName) error {
	pod, err := s.pods.cached.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !s.lacking(pod) {
		return nil
	}
	err = s.pods.updateStatus(ctx, pod, func(status *corev1.PodStatus) error {
		podutil.UpdatePodCondition(status, &corev1.PodCondition{
			Type:               corev1.PodScheduled,
			Status:             corev1.ConditionTrue,
			ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(status, pod.Generation, corev1.PodScheduled),
		})
		status.NominatedNodeName = ""
		return nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
