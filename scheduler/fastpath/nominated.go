package fastpath

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/backend/queue"
)

// nominations watches upstream's queue for pods that are promised a node, by preemption or by somebody
// else. Upstream's filters reckon with such pods, and rows do not.
type nominations struct {
	queue.SchedulingQueue
	mu sync.Mutex
	// nodes had a nomination at some time; pending asks the queue whether they still have.
	nodes map[string]struct{}
}

func newNominations(q queue.SchedulingQueue) *nominations {
	return &nominations{SchedulingQueue: q, nodes: map[string]struct{}{}}
}

// note comes after the queue's own call: pending forgets nodes of which the queue knows no nomination.
func (n *nominations) note(node string) {
	if node == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[node] = struct{}{}
}

// Add notes the pod's nomination, if it has one.
func (n *nominations) Add(ctx context.Context, pod *corev1.Pod) {
	n.SchedulingQueue.Add(ctx, pod)
	n.note(pod.Status.NominatedNodeName)
}

// Update notes the pod's nomination, if it has one.
func (n *nominations) Update(ctx context.Context, oldPod, newPod *corev1.Pod) {
	n.SchedulingQueue.Update(ctx, oldPod, newPod)
	n.note(newPod.Status.NominatedNodeName)
}

// AddNominatedPod notes the nomination.
func (n *nominations) AddNominatedPod(logger klog.Logger, pod fwk.PodInfo, info *fwk.NominatingInfo) {
	n.SchedulingQueue.AddNominatedPod(logger, pod, info)
	n.note(pod.GetPod().Status.NominatedNodeName)
	if info != nil {
		n.note(info.NominatedNodeName)
	}
}

// UpdateNominatedPod notes the nomination.
func (n *nominations) UpdateNominatedPod(logger klog.Logger, oldPod *corev1.Pod, newPod fwk.PodInfo) {
	n.SchedulingQueue.UpdateNominatedPod(logger, oldPod, newPod)
	n.note(newPod.GetPod().Status.NominatedNodeName)
}

// pending reports whether any node is promised to a pod.
func (n *nominations) pending() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for node := range n.nodes {
		if len(n.NominatedPodsForNode(node)) > 0 {
			return true
		}
		delete(n.nodes, node)
	}
	return false
}
