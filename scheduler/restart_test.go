package scheduler_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/scheduler"
)

var _ = Describe("interruptions", func() {
	BeforeEach(func() { DeferCleanup(clean) })

	It("lose nothing when the scheduler starts again", func(ctx context.Context) {
		stop := startScheduler(scheduler.Config{})
		addNode(ctx, "node-1")
		bound := addPod(ctx, "bound", withRequest("3", "1Gi"))
		nodeOf(ctx, bound)
		waiting := addPod(ctx, "waiting", withRequest("3", "1Gi"))
		refusal(ctx, waiting)
		stop()

		late := addPod(ctx, "late", withRequest("1", "1Gi"))
		startScheduler(scheduler.Config{})
		Expect(nodeOf(ctx, late)).To(Equal("node-1"), "what was bound before still counts, and only that")
		Expect(get(ctx, waiting).Spec.NodeName).To(BeEmpty())
		addNode(ctx, "node-2")
		Expect(nodeOf(ctx, waiting)).To(Equal("node-2"))
	})

	It("leave no pod without its condition when the process dies between two writes", func(ctx context.Context) {
		addNode(ctx, "node-1")
		pod := addPod(ctx, "web", func(p *dcorev1.Pod) { p.Spec.NodeName = "node-1" })
		startScheduler(scheduler.Config{})
		Eventually(func() *corev1.PodCondition { return scheduledCondition(get(ctx, pod)) }, patience).ShouldNot(BeNil())
	})

	It("are waited out when the API server goes away and comes back", func(ctx context.Context) {
		wire := newWire(identity.Host)
		config := rest.CopyConfig(identity)
		config.Host = wire.url()
		startScheduler(scheduler.Config{RESTConfig: config})
		addNode(ctx, "node-1")
		nodeOf(ctx, addPod(ctx, "before"))

		wire.cut()
		var pods []*dcorev1.Pod
		for i := range 5 {
			pods = append(pods, addPod(ctx, fmt.Sprintf("during-%d", i)))
		}
		Consistently(func() string { return get(ctx, pods[0]).Spec.NodeName }, time.Second).Should(BeEmpty())
		wire.join()
		for _, pod := range pods {
			Expect(nodeOf(ctx, pod)).To(Equal("node-1"))
		}
	})

	It("are no obstacle to a scheduler that starts before its API server", func(ctx context.Context) {
		wire := newWire(identity.Host)
		wire.cut()
		config := rest.CopyConfig(identity)
		config.Host = wire.url()
		running, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- scheduler.Run(running, scheduler.Config{RESTConfig: config}) }()
		DeferCleanup(func() {
			cancel()
			Eventually(done, patience).Should(Receive(BeNil()))
		})
		addNode(ctx, "node-1")
		pod := addPod(ctx, "web")
		Consistently(done, 500*time.Millisecond).ShouldNot(Receive())
		wire.join()
		Expect(nodeOf(ctx, pod)).To(Equal("node-1"))
	})
})

// wire carries a scheduler's connections to the API server and can be cut.
type wire struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

func newWire(host string) *wire {
	GinkgoHelper()
	target, err := url.Parse(host)
	Expect(err).NotTo(HaveOccurred())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	w := &wire{listener: listener, target: target.Host}
	go w.serve()
	DeferCleanup(func() {
		_ = listener.Close()
		w.cut()
	})
	return w
}

func (w *wire) url() string { return "https://" + w.listener.Addr().String() }

func (w *wire) serve() {
	for {
		from, err := w.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", w.target)
		if err != nil {
			_ = from.Close()
			continue
		}
		w.mu.Lock()
		if w.isCut {
			_ = from.Close()
			_ = to.Close()
		} else {
			w.conns = append(w.conns, from, to)
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
			go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
		}
		w.mu.Unlock()
	}
}

// cut ends all connections and refuses new ones.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = true
	for _, conn := range w.conns {
		_ = conn.Close()
	}
	w.conns = nil
}

func (w *wire) join() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = false
}
