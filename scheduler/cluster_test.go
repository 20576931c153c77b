package scheduler_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	dschedulingv1 "drayage.dev/apis/scheduling/v1"
	"drayage.dev/scheduler"
)

const (
	namespace = "default"
	// patience bounds every wait; the machine may be busy.
	patience = 2 * time.Minute
)

// startScheduler runs a scheduler until the returned function is called, at the latest until the spec ends.
func startScheduler(config scheduler.Config, options ...scheduler.Option) (stop func()) {
	GinkgoHelper()
	if config.RESTConfig == nil {
		config.RESTConfig = rest.CopyConfig(identity)
	}
	if config.AgentPatience == 0 {
		config.AgentPatience = 100 * time.Millisecond // no agent is here
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s, err := scheduler.New(ctx, config, options...)
	Expect(err).NotTo(HaveOccurred())
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		running = nil
		cancel()
		Eventually(done, patience).Should(Receive(BeNil()))
	})
	DeferCleanup(stop)
	Eventually(s.Ready, patience).Should(Succeed())
	running = s
	return stop
}

// running is the spec's scheduler, if it has one.
var running *scheduler.Scheduler

// known waits until the running scheduler, if any, has seen object.
func known(object client.Object) {
	GinkgoHelper()
	if running != nil {
		Eventually(func() bool { return scheduler.Knows(running, object) }, patience, 10*time.Millisecond).Should(BeTrue())
	}
}

// clean empties the cluster after a spec.
func clean(ctx context.Context) {
	pods := &dcorev1.PodList{}
	Expect(admin.List(ctx, pods)).To(Succeed())
	for i := range pods.Items {
		end(ctx, &pods.Items[i])
	}
	for _, kind := range []client.Object{&dcorev1.Node{}, &dcorev1.Service{}, &dappsv1.ReplicaSet{}, &eventsv1.Event{}} {
		Expect(admin.DeleteAllOf(ctx, kind, client.InNamespace(namespace))).To(Succeed())
	}
}

// end plays the agent of a pod's node at the pod's end: the finalizer goes, and with it the pod.
func end(ctx context.Context, pod *dcorev1.Pod) {
	GinkgoHelper()
	Expect(client.IgnoreNotFound(admin.Delete(ctx, pod))).To(Succeed())
	nothing := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
	Expect(client.IgnoreNotFound(admin.Patch(ctx, pod, nothing))).To(Succeed())
	Eventually(func() bool {
		return apierrors.IsNotFound(admin.Get(ctx, client.ObjectKeyFromObject(pod), &dcorev1.Pod{}))
	}, patience).Should(BeTrue())
}

// addNode registers a node with 4 cores, 8 GiB and room for 110 pods, unless changed.
func addNode(ctx context.Context, name string, changes ...func(*dcorev1.Node)) *dcorev1.Node {
	GinkgoHelper()
	node := newNode(name, changes...)
	status := node.Status.DeepCopy()
	Expect(admin.Create(ctx, node)).To(Succeed())
	node.Status = *status
	Expect(admin.Status().Update(ctx, node)).To(Succeed())
	known(node)
	return node
}

func newNode(name string, changes ...func(*dcorev1.Node)) *dcorev1.Node {
	node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{corev1.LabelHostname: name},
	}}
	room := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("4"),
		corev1.ResourceMemory: resource.MustParse("8Gi"),
		corev1.ResourcePods:   resource.MustParse("110"),
	}
	node.Status.Capacity, node.Status.Allocatable = room, room.DeepCopy()
	node.Status.Summary = dcorev1.NodeSummary{Status: "Ready", Roles: "<none>"}
	for _, change := range changes {
		change(node)
	}
	return node
}

func withNodeLabel(key, value string) func(*dcorev1.Node) {
	return func(n *dcorev1.Node) { n.Labels[key] = value }
}

func withTaint(key string, effect corev1.TaintEffect) func(*dcorev1.Node) {
	return func(n *dcorev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect})
	}
}

// addPod creates a pod that requests nothing, unless changed.
func addPod(ctx context.Context, name string, changes ...func(*dcorev1.Pod)) *dcorev1.Pod {
	GinkgoHelper()
	pod := newPod(name, changes...)
	Expect(admin.Create(ctx, pod)).To(Succeed())
	return pod
}

func newPod(name string, changes ...func(*dcorev1.Pod)) *dcorev1.Pod {
	pod := &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, Labels: map[string]string{"app": "web"},
			Finalizers: []string{dcorev1.NodeFinalizer},
		},
		Spec: corev1.PodSpec{
			SchedulerName: dcorev1.SchedulerName,
			Containers:    []corev1.Container{{Name: "web", Image: "web:1"}},
		},
	}
	for _, change := range changes {
		change(pod)
	}
	return pod
}

func withRequest(cpu, memory string) func(*dcorev1.Pod) {
	return func(p *dcorev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
		}
	}
}

// addPriorities makes a class "priority-<n>" for each priority.
func addPriorities(ctx context.Context, priorities ...int32) {
	GinkgoHelper()
	for _, priority := range priorities {
		class := &dschedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("priority-%d", priority)}, Value: priority}
		Expect(client.IgnoreAlreadyExists(admin.Create(ctx, class))).To(Succeed())
	}
}

func withPriority(priority int32) func(*dcorev1.Pod) {
	return func(p *dcorev1.Pod) { p.Spec.PriorityClassName = fmt.Sprintf("priority-%d", priority) }
}

func withLabel(key, value string) func(*dcorev1.Pod) {
	return func(p *dcorev1.Pod) { p.Labels[key] = value }
}

func withOwner(owner client.Object, apiVersion, kind string) func(*dcorev1.Pod) {
	yes := true
	return func(p *dcorev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: apiVersion, Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes,
		}}
	}
}

func get(ctx context.Context, pod *dcorev1.Pod) *dcorev1.Pod {
	GinkgoHelper()
	live := &dcorev1.Pod{}
	Expect(admin.Get(ctx, client.ObjectKeyFromObject(pod), live)).To(Succeed())
	return live
}

// nodeOf waits until pod is bound and returns its node.
func nodeOf(ctx context.Context, pod *dcorev1.Pod) string {
	GinkgoHelper()
	var node string
	Eventually(func(g Gomega) {
		live := &dcorev1.Pod{}
		g.Expect(admin.Get(ctx, client.ObjectKeyFromObject(pod), live)).To(Succeed())
		g.Expect(live.Spec.NodeName).NotTo(BeEmpty(), "%+v", live.Status.Conditions)
		node = live.Spec.NodeName
	}, patience, 20*time.Millisecond).Should(Succeed())
	return node
}

// scheduledCondition returns the pod's PodScheduled condition, nil when it has none.
func scheduledCondition(pod *dcorev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if condition := &pod.Status.Conditions[i]; condition.Type == corev1.PodScheduled {
			return condition
		}
	}
	return nil
}

// refusal waits until pod is reported as unschedulable and returns the message.
func refusal(ctx context.Context, pod *dcorev1.Pod) string {
	GinkgoHelper()
	var message string
	Eventually(func(g Gomega) {
		live := &dcorev1.Pod{}
		g.Expect(admin.Get(ctx, client.ObjectKeyFromObject(pod), live)).To(Succeed())
		g.Expect(live.Spec.NodeName).To(BeEmpty())
		condition := scheduledCondition(live)
		g.Expect(condition).NotTo(BeNil())
		g.Expect(condition.Status).To(Equal(corev1.ConditionFalse))
		g.Expect(condition.Reason).To(Equal(corev1.PodReasonUnschedulable))
		message = condition.Message
	}, patience, 20*time.Millisecond).Should(Succeed())
	return message
}

// eventsOf returns the events about pod with the given reason.
func eventsOf(ctx context.Context, pod *dcorev1.Pod, reason string) []eventsv1.Event {
	list := &eventsv1.EventList{}
	Expect(admin.List(ctx, list, client.InNamespace(pod.Namespace))).To(Succeed())
	var found []eventsv1.Event
	for _, event := range list.Items {
		if event.Regarding.UID == pod.UID && event.Reason == reason {
			found = append(found, event)
		}
	}
	return found
}
