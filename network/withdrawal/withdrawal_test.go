package withdrawal_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/network/withdrawal"
)

// proxy is scripted: its kernel is where the spec says.
type proxy struct {
	mu       sync.Mutex
	revision uint64
	news     chan struct{}
	await    error
	// asked is how often Applied was.
	asked atomic.Int32
}

func newProxy(revision uint64) *proxy { return &proxy{revision: revision, news: make(chan struct{})} }

func (p *proxy) Await(context.Context, types.UID) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revision, p.await
}

func (p *proxy) Applied() (uint64, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked.Add(1)
	return p.revision, p.news
}

func (p *proxy) set(revision uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revision = revision
	close(p.news)
	p.news = make(chan struct{})
}

// controlPlane remembers reports and answers questions with a status code.
type controlPlane struct {
	mu      sync.Mutex
	reports []uint64
	asked   []string
	status  int
	// held, if set, keeps every answer back until it is closed.
	held chan struct{}
}

func (c *controlPlane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.held != nil {
		<-c.held
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Path != "/apis/subresources.drayage.dev/v1alpha1/nodes/here/applied" {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodPost {
		var report subresourcesv1alpha1.AppliedRevision
		_ = json.NewDecoder(r.Body).Decode(&report)
		if c.status == http.StatusOK {
			c.reports = append(c.reports, report.Revision)
		}
	} else {
		c.asked = append(c.asked, r.URL.Query().Get(subresourcesv1alpha1.RevisionParameter))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(c.status)
	_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1"}`))
}

func (c *controlPlane) all() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]uint64{}, c.reports...)
}

func (c *controlPlane) answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

var _ = Describe("Client", func() {
	var (
		plane  *controlPlane
		kernel *proxy
		client *withdrawal.Client
	)
	BeforeEach(func() {
		plane, kernel = &controlPlane{status: http.StatusOK}, newProxy(7)
		server := httptest.NewServer(plane)
		DeferCleanup(server.Close)
		var err error
		client, err = withdrawal.New(withdrawal.Config{Node: "here", RESTConfig: &rest.Config{Host: server.URL}, Proxy: kernel})
		Expect(err).NotTo(HaveOccurred())
	})
	run := func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- client.Run(ctx) }()
		DeferCleanup(func() {
			cancel()
			Eventually(done).Should(Receive(BeNil()))
		})
	}

	It("reports the newest revision, and what comes at once in one report", func() {
		plane.held = make(chan struct{})
		run()
		Eventually(kernel.asked.Load).ShouldNot(BeZero())
		By("having the first report under way meanwhile")
		for revision := range uint64(1000) {
			kernel.set(8 + revision)
		}
		close(plane.held)
		Eventually(plane.all).Should(Equal([]uint64{7, 1007}))
	})

	It("reports again what was not taken", func() {
		plane.answer(http.StatusServiceUnavailable)
		run()
		Consistently(plane.all, 200*time.Millisecond).Should(BeEmpty())
		plane.answer(http.StatusOK)
		Eventually(plane.all).Should(Equal([]uint64{7}))
	})

	It("asks for the revision, and lets begun connections settle", func(ctx SpecContext) {
		start := time.Now()
		Expect(client.Await(ctx, "pod")).To(Succeed())
		Expect(time.Since(start)).To(BeNumerically(">=", 500*time.Millisecond))
		Expect(plane.asked).To(Equal([]string{"7"}))
	}, SpecTimeout(time.Minute))

	It("asks nobody for a pod that no node sends anything", func(ctx SpecContext) {
		kernel.revision = 0
		noTime, cancel := context.WithCancel(ctx)
		cancel()
		Expect(client.Await(noTime, "pod")).To(Succeed())
		Expect(plane.asked).To(BeEmpty())
	}, SpecTimeout(time.Minute))

	It("waits no longer than it may", func() {
		kernel.await = context.DeadlineExceeded
		Expect(client.Await(context.Background(), "pod")).To(MatchError(context.DeadlineExceeded))
		kernel.await = nil
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		Expect(client.Await(ctx, "pod")).To(MatchError(context.DeadlineExceeded))

		By("asking again while the control plane knows nothing")
		plane.answer(http.StatusServiceUnavailable)
		short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		Expect(client.Await(short, "pod")).To(MatchError(ContainSubstring("asking whether all nodes have revision 7")))
		Expect(time.Since(start)).To(BeNumerically(">=", 300*time.Millisecond))
		time.AfterFunc(200*time.Millisecond, func() { plane.answer(http.StatusOK) })
		enough, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		Expect(client.Await(enough, "pod")).To(Succeed())
	})
})
