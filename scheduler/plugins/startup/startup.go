package startup

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/util"
)

// Name is the plugin's in profiles.
const Name = "Startup"

// Refusal is the reason that a node is refused for.
const Refusal = "node(s) were not ready to start pods"

// Of a score's 100, pulling images takes longest. A pod that waits for maxQueue others is as far from its start as
// the score knows; agents start that many within a few seconds.
const (
	imagesPart = 60
	queuePart  = fwk.MaxScore - imagesPart
	maxQueue   = 20
)

// Plugin is the plugin.
type Plugin struct{}

var (
	_ fwk.FilterPlugin      = &Plugin{}
	_ fwk.ScorePlugin       = &Plugin{}
	_ fwk.EnqueueExtensions = &Plugin{}
	_ fwk.SignPlugin        = &Plugin{}
)

// New makes the plugin. It takes no arguments.
func New(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) { return &Plugin{}, nil }

// Name returns Name.
func (*Plugin) Name() string { return Name }

// Filter refuses nodes whose agents say that they are not ready.
func (*Plugin) Filter(_ context.Context, _ fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	if !Ready(node.Node()) {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, Refusal)
	}
	return nil
}

// EventsToRegister names what may make a refused pod schedulable: a node that becomes ready.
func (*Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{{
		Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeCondition}, QueueingHintFn: afterNodeChange,
	}}, nil
}

func afterNodeChange(_ klog.Logger, _ *corev1.Pod, before, after any) (fwk.QueueingHint, error) {
	was, is, err := util.As[*corev1.Node](before, after)
	if err != nil {
		return fwk.Queue, err
	}
	if Ready(is) && (was == nil || !Ready(was)) {
		return fwk.Queue, nil
	}
	return fwk.QueueSkip, nil
}

// Score says how soon the pod would start.
func (*Plugin) Score(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	images, present := Images(pod), 0
	states := node.GetImageStates()
	for _, image := range images {
		if states[image] != nil {
			present++
		}
	}
	return ImageScore(present, len(images)) + QueueScore(Queue(node.GetPods())), nil
}

// ScoreExtensions returns nil: scores are not normalised.
func (*Plugin) ScoreExtensions() fwk.ScoreExtensions { return nil }

// SignPod says what of a pod counts: its images.
func (*Plugin) SignPod(_ context.Context, pod *corev1.Pod) ([]fwk.SignFragment, *fwk.Status) {
	return []fwk.SignFragment{{Key: "drayage.dev/images", Value: strings.Join(Images(pod), "\n")}}, nil
}

// Ready reports whether nothing says that the node cannot start pods.
func Ready(node *corev1.Node) bool {
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return true
}

// Queue counts the pods that wait to start.
func Queue(pods []fwk.PodInfo) (waiting int) {
	for _, info := range pods {
		if pod := info.GetPod(); pod.DeletionTimestamp == nil && (pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "") {
			waiting++
		}
	}
	return waiting
}

// QueueScore is the part of the score for how many pods wait to start on a node.
func QueueScore(waiting int) int64 {
	return queuePart * int64(maxQueue-min(waiting, maxQueue)) / maxQueue
}

// ImageScore is the part of the score for how many of a pod's images a node has.
func ImageScore(present, all int) int64 {
	if all == 0 {
		return imagesPart
	}
	return imagesPart * int64(present) / int64(all)
}

// Images returns the names under which nodes report a pod's images.
func Images(pod *corev1.Pod) []string {
	var images []string
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			name := containers[i].Image
			if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
				name += ":latest"
			}
			images = append(images, name)
		}
	}
	return images
}
