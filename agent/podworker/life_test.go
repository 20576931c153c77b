package podworker_test

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/testutil"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent"
	"drayage.dev/agent/metrics"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/changes"
)

func ready(status dcorev1.PodStatus) bool { return podutil.IsPodReadyConditionTrue(status.PodStatus) }

var _ = Describe("a pod's life", func() {
	var m *machine
	BeforeEach(func() { m = newMachine() })

	It("starts init containers one after the other, then sidecars, then the others", func() {
		pod := m.pod("ordered", func(spec *corev1.PodSpec) {
			spec.InitContainers = []corev1.Container{container("first"), sidecar("side"), container("second")}
			spec.Containers = []corev1.Container{container("a"), container("b")}
		})
		Eventually(m.runtime.Log).Should(Equal([]string{"sandbox", "start first"}))
		Eventually(now(pod)).Should(And(
			HaveField("Phase", corev1.PodPending), HaveField("Summary.Status", "Init:0/3"),
			HaveField("ContainerStatuses", HaveEach(HaveField("State.Waiting.Reason", "PodInitializing")))))
		Consistently(m.runtime.Log, 300*time.Millisecond).Should(HaveLen(2))
		Expect(m.runtime.Exit(pod.UID, "first", 0)).To(Succeed())
		Eventually(m.runtime.Log).Should(Equal([]string{"sandbox", "start first", "start side", "start second"}))
		Expect(m.runtime.Exit(pod.UID, "second", 0)).To(Succeed())
		Eventually(m.runtime.Log).Should(Equal([]string{"sandbox", "start first", "start side", "start second", "start a", "start b"}))
		Eventually(now(pod)).Should(And(Satisfy(ready), HaveField("Summary", dcorev1.PodSummary{Ready: "3/3", Status: "Running", Restarts: "0"})))
	})

	It("is Ready after few writes", func(ctx context.Context) {
		watch, err := changes.Of(ctx, apiClient, &dcorev1.PodList{}, client.MatchingFields{dcorev1.NodeNameField: m.name})
		Expect(err).NotTo(HaveOccurred())
		defer watch.Stop()
		pod := m.pod("quick", nil)
		Eventually(now(pod)).Should(Satisfy(ready))
		writes := 0
		for quiet := false; !quiet; {
			select {
			case event := <-watch.ResultChan():
				if changed, ok := event.Object.(*dcorev1.Pod); ok && changed.UID == pod.UID && event.Type == "MODIFIED" {
					writes++
				}
			case <-time.After(time.Second):
				quiet = true
			}
		}
		Expect(writes).To(BeNumerically("<=", 2))
	})

	It("restarts what ends, waiting longer each time", func() {
		m.backoff = 5 * time.Second // long enough to be seen
		m.restart()
		pod := m.pod("restarts", nil)
		Eventually(now(pod)).Should(Satisfy(ready))
		Expect(m.runtime.Exit(pod.UID, "main", 3)).To(Succeed())
		Eventually(now(pod)).Should(And(Satisfy(ready), HaveField("ContainerStatuses", ConsistOf(And(
			HaveField("RestartCount", BeEquivalentTo(1)), HaveField("LastTerminationState.Terminated.ExitCode", BeEquivalentTo(3)))))))
		Expect(m.runtime.Exit(pod.UID, "main", 4)).To(Succeed())
		Eventually(now(pod)).Should(And(HaveField("Phase", corev1.PodRunning), HaveField("Summary.Status", "CrashLoopBackOff"),
			HaveField("ContainerStatuses", ConsistOf(And(
				HaveField("State.Waiting.Message", ContainSubstring("back-off 5s restarting failed container=main")),
				HaveField("LastTerminationState.Terminated.ExitCode", BeEquivalentTo(4)))))))
		Eventually(now(pod)).Should(And(Satisfy(ready), HaveField("Summary.Restarts", "2")))
	})

	It("ends in success or failure as the restart policy says", func() {
		never := m.pod("never", func(spec *corev1.PodSpec) { spec.RestartPolicy = corev1.RestartPolicyNever })
		onFailure := m.pod("on-failure", func(spec *corev1.PodSpec) {
			spec.RestartPolicy = corev1.RestartPolicyOnFailure
			spec.InitContainers = []corev1.Container{sidecar("side")}
		})
		Eventually(now(never)).Should(Satisfy(ready))
		Eventually(now(onFailure)).Should(Satisfy(ready))
		Expect(m.runtime.Exit(never.UID, "main", 1)).To(Succeed())
		Eventually(now(never)).Should(And(HaveField("Phase", corev1.PodFailed), HaveField("Summary.Status", "Error")))
		Expect(m.runtime.Exit(onFailure.UID, "main", 1)).To(Succeed())
		Eventually(now(onFailure)).Should(And(Satisfy(ready), HaveField("Summary.Restarts", "1")))
		Eventually(func() error { return m.runtime.Exit(onFailure.UID, "main", 0) }).Should(Succeed())
		Eventually(now(onFailure)).Should(And(HaveField("Phase", corev1.PodSucceeded), HaveField("Summary.Status", "Completed")))
		Expect(m.runtime.Log()).To(ContainElement("stop side"), "sidecars end with the others")
	})

	It("fails when an init container fails and must not be restarted", func() {
		pod := m.pod("init-fails", func(spec *corev1.PodSpec) {
			spec.RestartPolicy = corev1.RestartPolicyNever
			spec.InitContainers = []corev1.Container{container("first")}
		})
		Eventually(func() error { return m.runtime.Exit(pod.UID, "first", 2) }).Should(Succeed())
		Eventually(now(pod)).Should(And(HaveField("Phase", corev1.PodFailed), HaveField("Summary.Status", "Init:Error")))
		Expect(m.runtime.Log()).NotTo(ContainElement("start main"))
	})

	It("says why a container cannot be started, and goes on by itself", func() {
		m.runtime.Miss("main:1", &agent.ImageError{Reason: "ErrImagePull", Message: `no registry has "main:1"`})
		m.runtime.Refuse("other", errors.New("no such device"))
		pod := m.pod("stuck", func(spec *corev1.PodSpec) { spec.Containers = append(spec.Containers, container("other")) })
		Eventually(now(pod)).Should(HaveField("ContainerStatuses", ConsistOf(
			HaveField("State.Waiting", HaveValue(Equal(corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: `no registry has "main:1"`}))),
			HaveField("State.Waiting", HaveValue(Equal(corev1.ContainerStateWaiting{Reason: "CreateContainerError", Message: "no such device"}))))))
		m.runtime.Miss("main:1", nil)
		m.runtime.Refuse("other", nil)
		Eventually(now(pod)).Should(Satisfy(ready))
	})

	It("kills a container whose postStart hook fails", func() {
		m.runtime.OnExec(func(name string, command []string) (string, int) { return "out of luck", 1 })
		pod := m.pod("hook", func(spec *corev1.PodSpec) {
			spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook"}}}}
		})
		Eventually(m.runtime.Log).Should(ContainElements("exec main", "stop main"))
		Eventually(now(pod)).Should(HaveField("ContainerStatuses", ConsistOf(HaveField("State.Waiting.Reason", BeElementOf("PostStartHookError", "CrashLoopBackOff")))))
		m.runtime.OnExec(nil)
		Eventually(now(pod)).Should(Satisfy(ready))
	})

	It("rejects what does not fit", func() {
		pod := m.pod("too-big", func(spec *corev1.PodSpec) {
			spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("40")}
		})
		Eventually(now(pod)).Should(And(HaveField("Phase", corev1.PodFailed), HaveField("Reason", "OutOfcpu"), HaveField("Summary.Status", "OutOfcpu")))
		Expect(m.runtime.Log()).To(BeEmpty())
	})

	It("fails when its deadline has passed", func() {
		pod := m.pod("deadline", nil)
		Eventually(now(pod)).Should(Satisfy(ready))
		Expect(apiClient.Patch(context.Background(), pod, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"activeDeadlineSeconds":1}}`)))).To(Succeed())
		Eventually(now(pod)).Should(And(HaveField("Phase", corev1.PodFailed), HaveField("Reason", "DeadlineExceeded")))
		Eventually(m.runtime.Log).Should(ContainElements("stop main", "halt"))
	})

	It("is not touched by an agent's restart", func() {
		pod := m.pod("stays", func(spec *corev1.PodSpec) { spec.InitContainers = []corev1.Container{sidecar("side")} })
		Eventually(now(pod)).Should(Satisfy(ready))
		before, log := must(now(pod)()), m.runtime.Log()
		m.end()
		m.start()
		Consistently(now(pod), time.Second).Should(Equal(before))
		Expect(m.runtime.Log()).To(Equal(log))
		Expect(m.runtime.Exit(pod.UID, "main", 1)).To(Succeed())
		Eventually(now(pod)).Should(And(Satisfy(ready), HaveField("Summary.Restarts", "1")))
	})
})

func must[T any](value T, err error) T {
	GinkgoHelper()
	Expect(err).NotTo(HaveOccurred())
	return value
}

var _ = Describe("a pod's end", func() {
	var m *machine
	BeforeEach(func() { m = newMachine() })

	remove := func(pod *dcorev1.Pod) {
		GinkgoHelper()
		Expect(apiClient.Delete(context.Background(), pod)).To(Succeed())
	}

	It("leaves the proxies first, then ends the apps, then the sidecars in reverse", func() {
		pod := m.pod("gone", func(spec *corev1.PodSpec) {
			spec.InitContainers = []corev1.Container{sidecar("outer"), sidecar("inner")}
			spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook"}}}}
		})
		Eventually(now(pod)).Should(Satisfy(ready))
		gate := m.proxies.hold()
		remove(pod)
		Eventually(func() []types.UID {
			m.proxies.mu.Lock()
			defer m.proxies.mu.Unlock()
			return m.proxies.awaited
		}).Should(ContainElement(pod.UID))
		Expect(m.runtime.Log()).NotTo(ContainElement("stop main"))
		close(gate)
		Eventually(get(pod)).Should(Satisfy(apierrors.IsNotFound))
		log := m.runtime.Log()
		Expect(log[len(log)-5:]).To(Equal([]string{"exec main", "stop main", "stop inner", "stop outer", "remove"}))
	})

	It("does not wait for proxies for ever, and counts that", func() {
		metrics.Register("here")
		waits := func(result string) uint64 {
			GinkgoHelper()
			found, err := testutil.GetHistogramVecFromGatherer(legacyregistry.DefaultGatherer,
				"drayage_agent_withdrawal_duration_seconds", map[string]string{"result": result})
			Expect(err).NotTo(HaveOccurred())
			return found.GetAggregatedSampleCount()
		}
		expired, acknowledged := waits("expired"), waits("acknowledged")
		quick := m.pod("acknowledged", nil)
		Eventually(now(quick)).Should(Satisfy(ready))
		remove(quick)
		Eventually(get(quick)).Should(Satisfy(apierrors.IsNotFound))
		Expect([]uint64{waits("expired"), waits("acknowledged")}).To(Equal([]uint64{expired, acknowledged + 1}))

		pod := m.pod("bounded", nil)
		Eventually(now(pod)).Should(Satisfy(ready))
		m.proxies.hold()
		m.bound = 500 * time.Millisecond
		m.restart()
		remove(pod)
		Eventually(get(pod)).Should(Satisfy(apierrors.IsNotFound))
		Expect([]uint64{waits("expired"), waits("acknowledged")}).To(Equal([]uint64{expired + 1, acknowledged + 1}))
	})

	It("waits for the proxies again after an agent's restart", func() {
		pod := m.pod("rewaits", nil)
		Eventually(now(pod)).Should(Satisfy(ready))
		gate := m.proxies.hold()
		awaited := func() int {
			m.proxies.mu.Lock()
			defer m.proxies.mu.Unlock()
			return len(m.proxies.awaited)
		}
		remove(pod)
		Eventually(awaited).Should(Equal(1))
		m.end()
		m.start()
		Eventually(awaited).Should(Equal(2))
		Expect(m.runtime.Log()).NotTo(ContainElement("stop main"))
		close(gate)
		Eventually(get(pod)).Should(Satisfy(apierrors.IsNotFound))
	})

	It("kills sooner when the grace period is shortened", func() {
		m.runtime.Stubborn("main")
		pod := m.pod("stubborn", func(spec *corev1.PodSpec) { spec.TerminationGracePeriodSeconds = ptr.To[int64](600) })
		Eventually(now(pod)).Should(Satisfy(ready))
		remove(pod)
		Eventually(m.runtime.Log).Should(ContainElement("stop main"))
		Eventually(now(pod)).Should(HaveField("Summary.Status", "Terminating"))
		Expect(apiClient.Patch(context.Background(), pod, client.RawPatch(types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"drayage.dev/deletion-grace-period-seconds":"1"}}}`)))).To(Succeed())
		Eventually(get(pod)).Should(Satisfy(apierrors.IsNotFound))
		Expect(m.runtime.Log()).To(ContainElement("kill main"))
	})

	It("tells that a container that is ending is not ready, and that it is again", func() {
		m.runtime.Stubborn("main")
		var unready atomic.Bool
		m.runtime.OnExec(func(string, []string) (string, int) {
			if unready.Load() {
				return "", 1
			}
			return "", 0
		})
		pod := m.pod("unready", func(spec *corev1.PodSpec) {
			spec.TerminationGracePeriodSeconds = ptr.To[int64](600)
			spec.Containers[0].ReadinessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"ready"}}},
				PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1, TimeoutSeconds: 1,
			}
		})
		Eventually(now(pod)).Should(Satisfy(ready))
		remove(pod)
		Eventually(m.runtime.Log).Should(ContainElement("stop main"))
		Eventually(now(pod)).Should(HaveField("Summary.Status", "Terminating"))
		unready.Store(true)
		Eventually(now(pod)).Should(And(Not(Satisfy(ready)), HaveField("ContainerStatuses", HaveEach(HaveField("State.Running", Not(BeNil()))))))
		unready.Store(false)
		Eventually(now(pod)).Should(Satisfy(ready))
		Expect(apiClient.Patch(context.Background(), pod, client.RawPatch(types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"drayage.dev/deletion-grace-period-seconds":"1"}}}`)))).To(Succeed())
		Eventually(get(pod)).Should(Satisfy(apierrors.IsNotFound))
	})

	It("tells how the containers ended before the object goes", func(ctx context.Context) {
		watch, err := changes.Of(ctx, apiClient, &dcorev1.PodList{}, client.MatchingFields{dcorev1.NodeNameField: m.name})
		Expect(err).NotTo(HaveOccurred())
		defer watch.Stop()
		pod := m.pod("told", nil)
		Eventually(now(pod)).Should(Satisfy(ready))
		remove(pod)
		var last *dcorev1.Pod
		for last == nil {
			event := <-watch.ResultChan()
			if changed, ok := event.Object.(*dcorev1.Pod); ok && changed.UID == pod.UID && event.Type == "DELETED" {
				last = changed
			}
		}
		Expect(last.Status.Phase).To(Equal(corev1.PodSucceeded))
		Expect(last.Status.ContainerStatuses[0].State.Terminated).NotTo(BeNil())
	})

	It("goes on with its end after an agent's restart", func() {
		m.runtime.Stubborn("main")
		pod := m.pod("resumed", func(spec *corev1.PodSpec) { spec.TerminationGracePeriodSeconds = ptr.To[int64](600) })
		Eventually(now(pod)).Should(Satisfy(ready))
		remove(pod)
		Eventually(m.runtime.Graces).ShouldNot(BeEmpty())
		began := time.Now()
		m.end()
		before := m.runtime.Graces()
		passed := time.Since(began)
		m.start()
		Eventually(m.runtime.Graces).Should(HaveLen(len(before) + 1))
		Expect(m.runtime.Graces()[len(before)]).To(BeNumerically("<=", before[0]-passed), "the grace period is not begun anew")
		Expect(apiClient.Patch(context.Background(), pod, client.RawPatch(types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"drayage.dev/deletion-grace-period-seconds":"1"}}}`)))).To(Succeed())
		Eventually(get(pod)).Should(Satisfy(apierrors.IsNotFound))
	})

	It("ends what the API does not know", func() {
		pod := m.pod("forced", nil)
		Eventually(now(pod)).Should(Satisfy(ready))
		m.end()
		remove(pod)
		left := &dcorev1.Pod{}
		Expect(apiClient.Get(context.Background(), client.ObjectKeyFromObject(pod), left)).To(Succeed())
		left.Finalizers = nil
		Expect(apiClient.Update(context.Background(), left)).To(Succeed())
		m.start()
		Eventually(m.runtime.Log).Should(ContainElement("remove"))
		Eventually(func() ([]agent.PodState, error) { return m.runtime.List(context.Background()) }).Should(BeEmpty())
	})
})
