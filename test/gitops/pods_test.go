package gitops_test

import (
	"context"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent"
	agentstatus "drayage.dev/agent/status"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
)

// machine is a node that pods are bound to and that the API does not know.
const machine = "machine"

func pod(namespace, name string, change ...func(*dcorev1.Pod)) *dcorev1.Pod {
	p := &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{NodeName: machine, AutomountServiceAccountToken: ptr.To(false),
			Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
	}
	for _, change := range change {
		change(p)
	}
	return p
}

func once(p *dcorev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }

// bound creates a pod that has its node, and waits until the scheduler has said so.
func bound(ctx context.Context, p *dcorev1.Pod) *dcorev1.Pod {
	GinkgoHelper()
	create(ctx, p)
	Eventually(reading(p)).WithContext(ctx).Should(HaveField("Status.Conditions",
		ContainElement(And(HaveField("Type", corev1.PodScheduled), HaveField("Status", corev1.ConditionTrue)))))
	return p
}

func running(c *agent.Container) {
	c.Phase, c.StartedAt = agent.ContainerRunning, time.Unix(100, 0)
}

func exited(code int32) func(*agent.Container) {
	return func(c *agent.Container) {
		running(c)
		c.Phase, c.FinishedAt, c.ExitCode = agent.ContainerExited, time.Unix(200, 0), code
	}
}

// runtimeState is what a runtime holds of a pod of one container.
func runtimeState(p *dcorev1.Pod, change func(*agent.Container)) agent.PodState {
	c := agent.Container{ID: "1", Name: "main", SandboxID: "0", Image: "web:1"}
	change(&c)
	return agent.PodState{
		UID: p.UID, Sandboxes: []agent.Sandbox{{ID: "0", Ready: true, Addresses: []netip.Addr{netip.MustParseAddr("10.244.0.7")}}},
		Containers: []agent.Container{c},
	}
}

// report writes a pod's status as an agent does that observes this.
func report(ctx context.Context, p *dcorev1.Pod, state agent.PodState, change func(*agentstatus.Observed)) *dcorev1.Pod {
	GinkgoHelper()
	observed := agentstatus.Observed{
		Pod: upstream.Pod(p), Runtime: state, Now: time.Now(),
		HostIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Probed:  func(string) (started, ready bool) { return true, true },
	}
	if change != nil {
		change(&observed)
	}
	writer := agentstatus.NewWriter(api)
	writer.Observe(p)
	writer.Set(p.UID, agentstatus.Generate(observed))
	Expect(writer.Flush(ctx, p.UID)).To(Succeed())
	Expect(api.Get(ctx, client.ObjectKeyFromObject(p), p)).To(Succeed())
	return p
}

func waiting(reason, message string) func(*agentstatus.Observed) {
	return func(o *agentstatus.Observed) {
		o.Waiting = map[string]corev1.ContainerStateWaiting{"main": {Reason: reason, Message: message}}
	}
}

func ended(o *agentstatus.Observed) { o.Ended = true }

var podPhases = map[string]makePhase{
	"pod-new": func(ctx context.Context, namespace, name string) client.Object {
		return created(ctx, pod(namespace, name, func(p *dcorev1.Pod) { p.Spec.NodeName = "" }))
	},
	"pod-unschedulable": func(ctx context.Context, namespace, name string) client.Object {
		p := pod(namespace, name, func(p *dcorev1.Pod) { p.Spec.NodeName = "" })
		create(ctx, p)
		Eventually(reading(p)).WithContext(ctx).Should(HaveField("Status.Conditions", ContainElement(HaveField("Reason", "Unschedulable"))))
		return p
	},
	"pod-creating": func(ctx context.Context, namespace, name string) client.Object {
		return report(ctx, bound(ctx, pod(namespace, name)), agent.PodState{}, nil)
	},
	"pod-image-pull": func(ctx context.Context, namespace, name string) client.Object {
		return report(ctx, bound(ctx, pod(namespace, name)), agent.PodState{}, waiting("ImagePullBackOff", `Back-off pulling image "web:1"`))
	},
	"pod-not-ready": func(ctx context.Context, namespace, name string) client.Object {
		p := bound(ctx, pod(namespace, name))
		return report(ctx, p, runtimeState(p, running), func(o *agentstatus.Observed) {
			o.Probed = func(string) (started, ready bool) { return true, false }
		})
	},
	"pod-ready": func(ctx context.Context, namespace, name string) client.Object {
		p := bound(ctx, pod(namespace, name))
		return report(ctx, p, runtimeState(p, running), nil)
	},
	"pod-crash-loop": func(ctx context.Context, namespace, name string) client.Object {
		p := bound(ctx, pod(namespace, name))
		return report(ctx, p, runtimeState(p, exited(1)), waiting(agentstatus.CrashLoopBackOff, "back-off 10s restarting failed container"))
	},
	"pod-succeeded": func(ctx context.Context, namespace, name string) client.Object {
		p := bound(ctx, pod(namespace, name, once))
		return report(ctx, p, runtimeState(p, exited(0)), ended)
	},
	"pod-failed": func(ctx context.Context, namespace, name string) client.Object {
		p := bound(ctx, pod(namespace, name, once))
		return report(ctx, p, runtimeState(p, exited(1)), ended)
	},
	"pod-evicted": func(ctx context.Context, namespace, name string) client.Object {
		p := bound(ctx, pod(namespace, name))
		return report(ctx, p, agent.PodState{}, func(o *agentstatus.Observed) {
			o.Verdict = &agentstatus.Verdict{Reason: "Evicted", Message: "The node was low on resource: memory."}
		})
	},
	"pod-node-lost": func(ctx context.Context, namespace, name string) client.Object {
		node := newNode(ctx, name, corev1.ConditionTrue)
		p := bound(ctx, pod(namespace, name, func(p *dcorev1.Pod) { p.Spec.NodeName = node.Name }))
		report(ctx, p, runtimeState(p, running), nil)
		Eventually(reading(p)).WithContext(ctx).Should(HaveField("Status.Conditions",
			ContainElement(And(HaveField("Type", corev1.PodReady), HaveField("Status", corev1.ConditionFalse)))))
		return p
	},
	"pod-terminating": func(ctx context.Context, namespace, name string) client.Object {
		p := bound(ctx, pod(namespace, name))
		return deleted(ctx, report(ctx, p, runtimeState(p, running), nil))
	},
}
