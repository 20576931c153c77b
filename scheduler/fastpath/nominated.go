package fastpath

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/backend/queue"
)

// nominations watches upstream's queue for pods that are promised a node, by preemption or by somebody
// else. Upstream's filters reckon with such pods, and rows do not: see chooseBeside.
type nominations struct {
	queue.SchedulingQueue
	mu sync.Mutex
	// nodes had a nomination at some time; promised asks the queue whether they still have.
	nodes map[string]struct{}
}

func newNominations(q queue.SchedulingQueue) *nominations {
	return &nominations{SchedulingQueue: q, nodes: map[string]struct{}{}}
}

// note comes after the queue's own call: promised forgets nodes of which the queue knows no nomination.
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

// promised returns the nodes that are promised to pods to which this one must yield.
func (n *nominations) promised(pod *corev1.Pod) (nodes []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for node := range n.nodes {
		pods := n.NominatedPodsForNode(node)
		if len(pods) == 0 {
			delete(n.nodes, node)
			continue
		}
		for _, other := range pods {
			if other.GetPod().UID != pod.UID && corev1helpers.PodPriority(other.GetPod()) >= corev1helpers.PodPriority(pod) {
				nodes = append(nodes, node)
				break
			}
		}
	}
	return nodes
}

// maxPromised bounds the promised nodes that one decision looks at one by one.
const maxPromised = 64

// chooseBeside chooses as choose does while nodes are promised to others. Upstream's filters reckon with such pods
// on their nodes, and nowhere else: so upstream judges these nodes. It leaves the state of PreFilter in state.
// ok is false when there are too many to judge.
func (e *engine) chooseBeside(ctx context.Context, c *class, promised []string, state fwk.CycleState, pod *corev1.Pod) (node int32, feasible int, ok bool) {
	if len(promised) > maxPromised {
		return 0, 0, false
	}
	if _, status, _ := c.profile.framework.RunPreFilterPlugins(ctx, state, pod); !status.IsSuccess() {
		return 0, 0, status.IsRejected()
	}
	open := map[int32]bool{}
	for _, name := range promised {
		if node, known := e.nodes.find(name); known && c.row(node).ok {
			open[node] = true
		}
	}
	refused := map[int32]bool{}
	judge := func(node int32) {
		delete(open, node)
		if !c.profile.framework.RunFilterPluginsWithNominatedPods(ctx, state, pod, e.nodes.info[node]).IsSuccess() {
			refused[node] = true
		}
	}
	e.chooser.refused = refused
	defer func() { e.chooser.refused = nil }()
	for {
		node, feasible = e.chooser.choose(c)
		switch {
		case feasible == 0 || len(open) == 0:
			return node, feasible, true
		case e.chooser.normalised:
			// Who is in decides on the scores of all others.
			for node := range open {
				judge(node)
			}
		case open[node]:
			judge(node)
			if !refused[node] {
				return node, feasible, true
			}
		default:
			return node, feasible, true
		}
	}
}
