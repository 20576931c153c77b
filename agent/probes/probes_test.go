package probes_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"drayage.dev/agent/probes"
)

// node is a node whose containers answer exec probes as they are told: the command is the name of the
// probe, and each probe waits for its answer.
type node struct {
	manager *probes.Manager
	clock   *clocktesting.FakeClock
	start   time.Time
	pod     *corev1.Pod

	asked   chan string
	answers chan int
	changes chan probes.Change

	mu     sync.Mutex
	events []string
}

func newNode() *node {
	ctx, cancel := context.WithCancel(context.Background())
	DeferCleanup(cancel)
	start := time.Now()
	n := &node{
		clock: clocktesting.NewFakeClock(start), start: start,
		asked: make(chan string), answers: make(chan int), changes: make(chan probes.Change, 100),
	}
	n.pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
	n.manager = probes.New(ctx, probes.Config{
		Clock: n.clock,
		Exec: func(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, int, error) {
			select {
			case n.asked <- command[0]:
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			}
			select {
			case code := <-n.answers:
				if code < 0 {
					return nil, 0, fmt.Errorf("exec: %w", context.DeadlineExceeded)
				}
				return []byte("output"), code, nil
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			}
		},
		Changed: func(change probes.Change) { n.changes <- change },
		Event: func(_ *corev1.Pod, container *corev1.Container, eventType, reason, message string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, fmt.Sprint(container.Name, " ", eventType, " ", reason, " ", message))
		},
	})
	return n
}

func (n *node) published() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string{}, n.events...)
}

func (n *node) container() *corev1.Container { return &n.pod.Spec.Containers[0] }

func (n *node) target() probes.Target {
	return probes.Target{Pod: n.pod, Container: n.container(), ContainerID: "c1", PodIP: "127.0.0.1", StartedAt: n.start}
}

// answer waits for the probe and answers it with an exit code.
func (n *node) answer(probe string, code int) {
	GinkgoHelper()
	Eventually(n.asked).Should(Receive(Equal(probe)))
	n.answers <- code
}

// pass lets time pass once somebody waits for it.
func (n *node) pass(d time.Duration) {
	GinkgoHelper()
	Eventually(n.clock.HasWaiters).Should(BeTrue())
	n.clock.Step(d)
}

func (n *node) quiet() {
	GinkgoHelper()
	Consistently(n.asked, "50ms").ShouldNot(Receive())
}

func execProbe(name string) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}},
		PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3,
	}
}

var _ = Describe("a container without probes", func() {
	It("is started and ready at once", func() {
		n := newNode()
		Expect(n.manager.Watch(n.target())).To(Equal(probes.State{Started: true, Ready: true}))
		state, known := n.manager.State("c1")
		Expect(known).To(BeTrue())
		Expect(state.Ready).To(BeTrue())
		n.manager.Forget("c1")
		_, known = n.manager.State("c1")
		Expect(known).To(BeFalse())
	})
})

var _ = Describe("readiness", func() {
	It("is false first, is probed at once, and again soon until it succeeds, with events at the period only", func() {
		n := newNode()
		n.container().ReadinessProbe = execProbe("ready")
		Expect(n.manager.Watch(n.target())).To(Equal(probes.State{Started: true}))
		n.answer("ready", 1)
		n.pass(100 * time.Millisecond)
		n.answer("ready", 1)
		n.pass(200 * time.Millisecond)
		n.answer("ready", 0)
		Eventually(n.changes).Should(Receive(Equal(probes.Change{
			Pod: "u1", Container: "app", ContainerID: "c1", State: probes.State{Started: true, Ready: true}})))
		Expect(n.published()).To(Equal([]string{"app Warning Unhealthy Readiness probe failed: output"}))
	})

	It("goes after as many failures as the threshold says, and keeps to the period", func() {
		n := newNode()
		n.container().ReadinessProbe = execProbe("ready")
		n.manager.Watch(n.target())
		n.answer("ready", 0)
		Eventually(n.changes).Should(Receive())
		for range 2 {
			n.pass(9999 * time.Millisecond)
			n.quiet()
			n.pass(time.Millisecond)
			n.answer("ready", 1)
		}
		Consistently(n.changes, "50ms").ShouldNot(Receive())
		n.pass(10 * time.Second)
		n.answer("ready", 1)
		var change probes.Change
		Eventually(n.changes).Should(Receive(&change))
		Expect(change.State).To(Equal(probes.State{Started: true}))
		Expect(change.Failed).To(BeEmpty())
	})

	It("wants as many successes as the threshold says", func() {
		n := newNode()
		n.container().ReadinessProbe = execProbe("ready")
		n.container().ReadinessProbe.SuccessThreshold = 2
		n.manager.Watch(n.target())
		n.answer("ready", 0)
		Consistently(n.changes, "50ms").ShouldNot(Receive())
		n.pass(10 * time.Second)
		n.answer("ready", 0)
		Eventually(n.changes).Should(Receive())
	})

	It("waits for the initial delay since the container's start", func() {
		n := newNode()
		n.container().ReadinessProbe = execProbe("ready")
		n.container().ReadinessProbe.InitialDelaySeconds = 5
		target := n.target()
		target.StartedAt = n.start.Add(-2 * time.Second)
		n.manager.Watch(target)
		n.pass(2999 * time.Millisecond)
		n.quiet()
		n.pass(time.Millisecond)
		n.answer("ready", 0)
		Eventually(n.changes).Should(Receive())
	})

	It("stays as it was when the agent comes back, and goes on while the pod terminates", func() {
		n := newNode()
		n.container().ReadinessProbe, n.container().LivenessProbe = execProbe("ready"), execProbe("live")
		n.container().StartupProbe = execProbe("start")
		target := n.target()
		target.Restored, target.Was = true, probes.State{Started: true, Ready: true}
		n.pod.DeletionTimestamp = ptr.To(metav1.Now())
		Expect(n.manager.Watch(target)).To(Equal(target.Was))
		n.pass(10 * time.Second)
		for range 2 {
			n.answer("ready", 1)
			n.pass(10 * time.Second)
		}
		Consistently(n.changes, "50ms").ShouldNot(Receive())
		n.answer("ready", 1)
		Eventually(n.changes).Should(Receive())
	})
})

var _ = Describe("liveness", func() {
	It("demands a restart once, with the probe's own grace period", func() {
		n := newNode()
		n.container().LivenessProbe = execProbe("live")
		n.container().LivenessProbe.TerminationGracePeriodSeconds = ptr.To[int64](7)
		Expect(n.manager.Watch(n.target())).To(Equal(probes.State{Started: true, Ready: true}))
		n.answer("live", 0)
		for _, code := range []int{2, 2, -1} {
			n.pass(10 * time.Second)
			n.answer("live", code)
		}
		Eventually(n.changes).Should(Receive(Equal(probes.Change{
			Pod: "u1", Container: "app", ContainerID: "c1", State: probes.State{Started: true, Ready: true},
			Failed: probes.Liveness, GracePeriodSeconds: ptr.To[int64](7),
		})))
		Expect(n.published()).To(HaveLen(3))
		Expect(n.published()[2]).To(Equal(`app Warning Unhealthy Liveness probe failed: command timed out: "live" timed out after 1s`))
		n.clock.Step(time.Minute)
		n.quiet()
	})

	It("ends when the pod terminates", func() {
		n := newNode()
		n.container().LivenessProbe = execProbe("live")
		n.manager.Watch(n.target())
		n.answer("live", 0)
		Eventually(n.clock.HasWaiters).Should(BeTrue())
		n.manager.Terminating("u1")
		Eventually(n.clock.HasWaiters).Should(BeFalse())
		n.clock.Step(time.Minute)
		n.quiet()
	})
})

var _ = Describe("startup", func() {
	It("holds the others back until it succeeds, then is done", func() {
		n := newNode()
		n.container().StartupProbe, n.container().ReadinessProbe = execProbe("start"), execProbe("ready")
		Expect(n.manager.Watch(n.target())).To(Equal(probes.State{}))
		n.answer("start", 1)
		n.pass(10 * time.Second)
		n.answer("start", 0)
		var change probes.Change
		Eventually(n.changes).Should(Receive(&change))
		Expect(change.State).To(Equal(probes.State{Started: true}))
		n.answer("ready", 0) // at once
		Eventually(n.changes).Should(Receive(&change))
		Expect(change.State).To(Equal(probes.State{Started: true, Ready: true}))
		n.pass(10 * time.Second)
		n.answer("ready", 0)
	})

	It("demands a restart when it never succeeds", func() {
		n := newNode()
		n.container().StartupProbe = execProbe("start")
		n.manager.Watch(n.target())
		n.answer("start", 1)
		for range 2 {
			n.pass(10 * time.Second)
			n.answer("start", 1)
		}
		var change probes.Change
		Eventually(n.changes).Should(Receive(&change))
		Expect(change.Failed).To(Equal(probes.Startup))
		Expect(change.State).To(Equal(probes.State{}))
	})
})

var _ = Describe("Forget", func() {
	It("lets nothing be heard of a probe that is under way", func() {
		n := newNode()
		n.container().ReadinessProbe = execProbe("ready")
		n.manager.Watch(n.target())
		Eventually(n.asked).Should(Receive())
		n.manager.Forget("c1")
		Consistently(n.changes, "50ms").ShouldNot(Receive())
		Expect(n.published()).To(BeEmpty())
	})
})

var _ = Describe("network probes", func() {
	ready := func(handler corev1.ProbeHandler, ports ...corev1.ContainerPort) *node {
		n := newNode()
		n.container().Ports = ports
		n.container().ReadinessProbe = execProbe("")
		n.container().ReadinessProbe.ProbeHandler = handler
		n.container().ReadinessProbe.TimeoutSeconds = 30
		n.manager.Watch(n.target())
		return n
	}

	It("asks by HTTP at a named port, and reports the status", func() {
		status := http.StatusOK
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/ready" || r.Header.Get("X-Probe") != "yes" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.WriteHeader(status)
		}))
		DeferCleanup(server.Close)
		_, text, err := net.SplitHostPort(server.Listener.Addr().String())
		Expect(err).NotTo(HaveOccurred())
		number, err := strconv.Atoi(text)
		Expect(err).NotTo(HaveOccurred())
		port := corev1.ContainerPort{Name: "http", ContainerPort: int32(number)}
		get := &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromString("http"), Scheme: corev1.URISchemeHTTP,
			HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Probe", Value: "yes"}}}
		Eventually(ready(corev1.ProbeHandler{HTTPGet: get}, port).changes).Should(Receive())

		status = http.StatusServiceUnavailable
		n := ready(corev1.ProbeHandler{HTTPGet: get}, port)
		Eventually(n.published).Should(ContainElement("app Warning Unhealthy Readiness probe failed: HTTP probe failed with statuscode: 503"))

		get.Port = intstr.FromString("none")
		n = ready(corev1.ProbeHandler{HTTPGet: get}, port)
		Eventually(n.published).Should(ContainElement(ContainSubstring("Readiness probe errored and resulted in unknown state")))
	})

	It("connects by TCP", func() {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		port := listener.Addr().(*net.TCPAddr).Port
		handler := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(port))}}
		Eventually(ready(handler).changes).Should(Receive())
		Expect(listener.Close()).To(Succeed())
		Eventually(ready(handler).published).Should(ContainElement(ContainSubstring("connection refused")))
	})
})
