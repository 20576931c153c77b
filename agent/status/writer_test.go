package status_test

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent"
	"drayage.dev/agent/status"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
	"drayage.dev/test/env"
)

func TestStatus(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(30 * time.Second)
	RunSpecs(t, "status")
}

func running(name string) agent.PodState {
	return agent.PodState{
		Sandboxes:  []agent.Sandbox{{ID: "sandbox", Ready: true}},
		Containers: []agent.Container{{ID: name + "-id", Name: name, SandboxID: "sandbox", Phase: agent.ContainerRunning, StartedAt: time.Unix(100, 0)}},
	}
}

func generate(pod *corev1.Pod, previous *corev1.PodStatus, state agent.PodState, change func(*status.Observed)) corev1.PodStatus {
	o := status.Observed{
		Pod: pod, Previous: previous, Runtime: state, Now: time.Unix(1000, 0),
		Probed: func(string) (bool, bool) { return true, true },
	}
	if change != nil {
		change(&o)
	}
	return status.Generate(o)
}

func pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "uid", Generation: 3},
		Spec:       corev1.PodSpec{HostNetwork: true, RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
	}
}

var _ = Describe("a generated status", func() {
	It("counts a container that was lost as ended", func() {
		before := generate(pod(), nil, running("main"), nil)
		Expect(before.Phase).To(Equal(corev1.PodRunning))
		after := generate(pod(), &before, agent.PodState{}, nil)
		Expect(after.Phase).To(Equal(corev1.PodRunning), "it has run already")
		Expect(after.ContainerStatuses[0].LastTerminationState.Terminated).To(HaveField("Reason", "ContainerStatusUnknown"))
		Expect(after.ContainerStatuses[0].RestartCount).To(BeEquivalentTo(1))
	})

	It("keeps the time since which a condition is so, and never leaves a final phase", func() {
		before := generate(pod(), nil, running("main"), nil)
		later := func(o *status.Observed) { o.Now = time.Unix(2000, 0) }
		after := generate(pod(), &before, running("main"), later)
		Expect(after.Conditions).To(Equal(before.Conditions))
		failed := generate(pod(), &after, running("main"), func(o *status.Observed) {
			o.Verdict = &status.Verdict{Reason: "DeadlineExceeded", Message: "too long"}
		})
		Expect(failed).To(And(HaveField("Phase", corev1.PodFailed), HaveField("Reason", "DeadlineExceeded")))
		Expect(generate(pod(), &failed, running("main"), nil)).To(And(HaveField("Phase", corev1.PodFailed), HaveField("Reason", "DeadlineExceeded")))
		Expect(failed.ObservedGeneration).To(BeEquivalentTo(3))
	})

	It("is summed up as kubectl does", func() {
		p := pod()
		p.Status = generate(p, nil, running("main"), func(o *status.Observed) {
			o.Runtime.Containers[0].Phase, o.Runtime.Containers[0].ExitCode, o.Runtime.Containers[0].Reason = agent.ContainerExited, 137, "OOMKilled"
			o.Runtime.Containers[0].Attempt = 4
		})
		Expect(status.Summary(p)).To(Equal(dcorev1.PodSummary{Ready: "0/1", Status: "OOMKilled", Restarts: "4"}))
		now := metav1.Now()
		p.DeletionTimestamp = &now
		Expect(status.Summary(p)).To(HaveField("Status", "Terminating"))
	})
})

var _ = Describe("a writer", Ordered, func() {
	var (
		api    client.WithWatch
		writer *status.Writer
		object *dcorev1.Pod
	)
	BeforeAll(func() {
		ctx, cancel := context.WithCancel(context.Background())
		DeferCleanup(cancel)
		server, err := env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(server.Stop()).To(Succeed()) })
		api, err = server.Client()
		Expect(err).NotTo(HaveOccurred())
		writer = status.NewWriter(api)
		done := make(chan struct{})
		go func() { defer close(done); writer.Run(ctx) }()
		DeferCleanup(func() { cancel(); Eventually(done).Should(BeClosed()) })
		object = upstream.FromPod(pod())
		object.UID, object.Generation = "", 0
		Expect(api.Create(ctx, object)).To(Succeed())
	})
	shown := func() (dcorev1.PodStatus, error) {
		found := &dcorev1.Pod{}
		err := api.Get(context.Background(), client.ObjectKeyFromObject(object), found)
		return found.Status, err
	}

	It("keeps the conditions of others, also when it knew an older version", func(ctx SpecContext) {
		writer.Observe(object)
		other := object.DeepCopy()
		other.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
		other.Status.Phase = corev1.PodPending
		Expect(api.Status().Update(ctx, other)).To(Succeed())
		writer.Set(object.UID, generate(upstream.Pod(object), nil, running("main"), nil))
		Eventually(shown).Should(And(
			HaveField("Phase", corev1.PodRunning), HaveField("Summary.Ready", "1/1"),
			HaveField("Conditions", ContainElements(HaveField("Type", corev1.PodScheduled), HaveField("Type", corev1.PodReady)))))
	})

	It("says that the pod has found a node, in the place of a scheduler that does not yet", func() {
		writer.Observe(object)
		writer.Set(object.UID, generate(upstream.Pod(object), nil, running("main"), nil))
		Eventually(shown).Should(HaveField("Conditions", ContainElement(And(
			HaveField("Type", corev1.PodScheduled), HaveField("Status", corev1.ConditionTrue)))))
	})

	It("says again what somebody else has changed", func(ctx SpecContext) {
		found := &dcorev1.Pod{}
		Eventually(func(g Gomega) {
			g.Expect(api.Get(ctx, client.ObjectKeyFromObject(object), found)).To(Succeed())
			for i := range found.Status.Conditions {
				if found.Status.Conditions[i].Type == corev1.PodReady {
					found.Status.Conditions[i].Status = corev1.ConditionFalse
				}
			}
			g.Expect(api.Status().Update(ctx, found)).To(Succeed())
		}).Should(Succeed(), "the writer may write between")
		writer.Observe(found)
		Eventually(shown).Should(HaveField("Conditions", ContainElement(And(HaveField("Type", corev1.PodReady), HaveField("Status", corev1.ConditionTrue)))))
	})
})
