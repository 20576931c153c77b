package proxy_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/node"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
	"drayage.dev/network/health"
	"drayage.dev/network/netlab"
	"drayage.dev/network/nftables"
	"drayage.dev/network/podnet"
	"drayage.dev/network/proxy"
	"drayage.dev/network/spec"
	"drayage.dev/test/env"
)

// recorder is a back end that remembers what it was given, and fails on demand.
type recorder struct {
	proxy.Backend
	mu     sync.Mutex
	fail   bool
	syncs  int
	writes []time.Time
	// forgot is when Forget was called last.
	forgot time.Time
}

func (r *recorder) Sync(desired map[spec.Key]*spec.Frontend) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.syncs++
	if r.fail {
		return false, errors.New("scripted")
	}
	return r.Backend.Sync(desired)
}

func (r *recorder) Apply(changes spec.Changes) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail {
		return errors.New("scripted")
	}
	err := r.Backend.Apply(changes)
	r.writes = append(r.writes, time.Now())
	return err
}

func (r *recorder) Forget() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgot = time.Now()
	return r.Backend.Forget()
}

func (r *recorder) set(fail bool) (syncs int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = fail
	return r.syncs
}

var _ = Describe("Proxy", Ordered, func() {
	var (
		ctx    context.Context
		api    client.Client
		cp     *env.Env
		lab    *netlab.Node
		pods   *podnet.Manager
		back   *recorder
		p      *proxy.Proxy
		stop   func()
		nodeIP netip.Addr
		// informer has this node's pods; checks is what load balancers were told last.
		informer cache.Informer
		checks   atomic.Pointer[map[types.NamespacedName]health.Answer]
	)
	const svc = "10.96.0.20:80"

	start := func() {
		table, err := nftables.New(lab.Path)
		Expect(err).NotTo(HaveOccurred())
		back = &recorder{Backend: table}
		p = proxy.New(proxy.Config{
			Node: proxy.Node{Name: "here", Addresses: []netip.Addr{nodeIP}}, RESTConfig: cp.Config, Backend: back,
			CheckInterval: 100 * time.Millisecond, StuckAfter: 200 * time.Millisecond,
			Pods: informer, Checks: func(answers map[types.NamespacedName]health.Answer) { checks.Store(&answers) },
		})
		run, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- p.Run(run) }()
		stop = func() {
			GinkgoHelper()
			cancel()
			Eventually(done).Should(Receive(BeNil()))
			Expect(table.Close()).To(Succeed())
		}
		Eventually(p.Synced()).Should(BeClosed())
	}
	pod := func(name string) (*netlab.Namespace, string) {
		GinkgoHelper()
		ns, err := netlab.New()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { _ = ns.Delete() })
		attachment, err := pods.Add(ctx, node.PodRef{SandboxID: name, NetNS: ns.Path})
		Expect(err).NotTo(HaveOccurred())
		server, err := ns.Serve(":8080", name)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(server.Close)
		return ns, attachment.Addresses[0].String()
	}
	write := func(name string, endpoints ...discoveryv1.Endpoint) {
		GinkgoHelper()
		s := upstream.FromEndpointSlice(slice(name, "web", endpoints...))
		existing := s.DeepCopy()
		if err := api.Get(ctx, client.ObjectKeyFromObject(s), existing); err == nil {
			s.ResourceVersion = existing.ResourceVersion
			Expect(api.Update(ctx, s)).To(Succeed())
			return
		}
		Expect(api.Create(ctx, s)).To(Succeed())
	}
	asked := func(from *netlab.Namespace) func() (string, error) {
		return func() (string, error) {
			name, _, err := from.Ask("tcp", svc)
			return name, err
		}
	}

	BeforeAll(func() {
		ctx = context.Background()
		var err error
		cp, err = env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(cp.Stop)
		api, err = cp.Client()
		Expect(err).NotTo(HaveOccurred())
		lab, err = netlab.NewNode()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(lab.Delete()).To(Succeed()) })
		nodeIP = lab.Address
		pods, err = podnet.New(podnet.Config{
			StateDir: GinkgoT().TempDir(), NetNS: lab.Path, NodeAddresses: []netip.Addr{nodeIP},
			PodRanges:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(pods.Close)
		Expect(pods.SetPodCIDRs(ctx, []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")})).To(Succeed())
		podCache, err := cache.New(cp.Config, cache.Options{Scheme: scheme.New()})
		Expect(err).NotTo(HaveOccurred())
		following, end := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- podCache.Start(following) }()
		DeferCleanup(func() {
			end()
			Expect(<-ended).To(Succeed())
		})
		informer, err = podCache.GetInformer(ctx, &dcorev1.Pod{}, cache.BlockUntilSynced(false))
		Expect(err).NotTo(HaveOccurred())
		start()
		DeferCleanup(func() { stop() })
		Expect(api.Create(ctx, upstream.FromService(service("web", "10.96.0.20")))).To(Succeed())
	})

	It("follows endpoints through refusal and back", func() {
		Eventually(func() error {
			_, err := lab.Dial("tcp", svc, 5*time.Second)
			return err
		}).Should(MatchError(syscall.ECONNREFUSED))
		_, one := pod("one")
		_, two := pod("two")
		write("web-1", endpoint(one))
		Eventually(asked(lab.Namespace)).Should(Equal("one"))
		var delays []time.Duration
		for i := range 20 {
			back.mu.Lock()
			back.writes = nil
			back.mu.Unlock()
			start := time.Now()
			write("web-1", endpoint([]string{two, one}[i%2]))
			Eventually(func() []time.Time {
				back.mu.Lock()
				defer back.mu.Unlock()
				return slices.Clone(back.writes)
			}).WithPolling(time.Millisecond).Should(HaveLen(1))
			delays = append(delays, back.writes[0].Sub(start))
		}
		slices.Sort(delays)
		AddReportEntry("from the client's write to the kernel, median and worst", delays[10].String()+" "+delays[19].String())
		// An answer may be on its way when the kernel is told; a withdrawn pod goes on for half a second.
		Eventually(func() time.Duration {
			back.mu.Lock()
			defer back.mu.Unlock()
			return back.forgot.Sub(back.writes[0])
		}).Should(BeNumerically(">", 0))
	})

	It("awaits the withdrawal of a terminating pod", func() {
		_, three := pod("three")
		_, four := pod("four")
		write("web-1", endpoint(three), endpoint(four))
		Eventually(func() map[string]bool {
			seen := map[string]bool{}
			for range 20 {
				name, _ := asked(lab.Namespace)()
				seen[name] = true
			}
			return seen
		}).Should(And(HaveKey("three"), HaveKey("four"), HaveLen(2)))

		bounded, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		_, err := p.Await(bounded, types.UID("uid-"+three))
		Expect(err).To(MatchError(context.DeadlineExceeded))
		Expect(p.Await(ctx, "serves-nothing")).To(BeZero(), "nobody has to hear of it")
		before, news := p.Applied()
		Expect(before).NotTo(BeZero())

		type result struct {
			revision uint64
			err      error
		}
		done := make(chan result, 1)
		go func() {
			revision, err := p.Await(ctx, types.UID("uid-"+three))
			done <- result{revision, err}
		}()
		write("web-1", endpoint(three, "ending"), endpoint(four))
		var got result
		Eventually(done).Should(Receive(&got))
		Expect(got.err).NotTo(HaveOccurred())
		Expect(got.revision).To(BeNumerically(">", before))
		Expect(news).To(BeClosed())
		after, _ := p.Applied()
		Expect(after).To(BeNumerically(">=", got.revision))
		for range 30 {
			Expect(asked(lab.Namespace)()).To(Equal("four"))
		}
	})

	It("leaves the rules to the next process, which takes them over", func() {
		_, five := pod("five")
		write("web-1", endpoint(five))
		Eventually(asked(lab.Namespace)).Should(Equal("five"))
		stop()
		Expect(asked(lab.Namespace)()).To(Equal("five"))
		_, six := pod("six")
		write("web-1", endpoint(six))
		start()
		Eventually(asked(lab.Namespace)).Should(Equal("six"))
	})

	It("tries again after a failed write", func() {
		_, seven := pod("seven")
		before := back.set(true)
		write("web-1", endpoint(seven))
		Eventually(func() int { return back.set(true) }).Should(BeNumerically(">", before+1))
		back.set(false)
		Eventually(asked(lab.Namespace)).Should(Equal("seven"))
	})

	It("leads host ports to pods, through its own restart, until they are gone", func() {
		_, address := pod("edge")
		object := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "edge"}}
		object.Spec.NodeName = "here"
		object.Spec.Containers = []corev1.Container{{Name: "edge", Image: "edge", Ports: []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 18080, Protocol: corev1.ProtocolTCP}}}}
		Expect(api.Create(ctx, object)).To(Succeed())
		object.Status.PodIP, object.Status.Phase = address, corev1.PodRunning
		Expect(api.Status().Update(ctx, object)).To(Succeed())
		target := nodeIP.String() + ":18080"
		type answer struct{ name, source string }
		ask := func() (answer, error) {
			name, source, err := lab.Outside.Ask("tcp", target)
			return answer{name, source}, err
		}
		Eventually(ask).Should(Equal(answer{"edge", lab.OutsideAddress.String()}))
		stop()
		Expect(ask()).To(Equal(answer{"edge", lab.OutsideAddress.String()}))
		start()
		Expect(ask()).To(Equal(answer{"edge", lab.OutsideAddress.String()}))
		Expect(api.Delete(ctx, object)).To(Succeed())
		Eventually(func() error { _, err := ask(); return err }).Should(MatchError(syscall.ECONNREFUSED))
	})

	It("tells load balancers of its endpoints, and when its rules do not follow", func() {
		local := service("edge", "10.96.0.21", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
			s.Spec.HealthCheckNodePort = 30999
		})
		Expect(api.Create(ctx, upstream.FromService(local))).To(Succeed())
		Expect(api.Create(ctx, upstream.FromEndpointSlice(slice("edge-1", "edge", endpoint("10.244.3.99"))))).To(Succeed())
		told := func() health.Answer {
			if answers := checks.Load(); answers != nil {
				return (*answers)[types.NamespacedName{Namespace: "default", Name: "edge"}]
			}
			return health.Answer{}
		}
		Eventually(told).Should(Equal(health.Answer{Port: 30999, Ready: 1}))
		back.set(true)
		write("web-1", endpoint("10.244.3.98"))
		Eventually(told).Should(Equal(health.Answer{Port: 30999, Ready: 1, Stuck: true}))
		back.set(false)
		Eventually(told).Should(Equal(health.Answer{Port: 30999, Ready: 1}))
		Expect(api.Delete(ctx, upstream.FromService(local))).To(Succeed())
		Eventually(told).Should(BeZero())
	})

	It("repairs what others delete", func() {
		Expect(podnet.Cleanup(ctx, GinkgoT().TempDir(), lab.Path)).To(Succeed())
		Eventually(func() error {
			// The pods are unwired, but the rules are back: the packet is answered, by the route.
			_, err := lab.Dial("tcp", svc, 5*time.Second)
			return err
		}).ShouldNot(MatchError(syscall.ECONNREFUSED))
	})

	It("follows the deletion of the service", func() {
		Expect(api.Delete(ctx, upstream.FromService(&corev1.Service{
			ObjectMeta: service("web", "").ObjectMeta,
		}))).To(Succeed())
		Expect(pods.Restore(ctx, nil)).To(Succeed())
		Eventually(func() error {
			_, err := lab.Dial("tcp", svc, 5*time.Second)
			return err
		}).Should(MatchError(syscall.ECONNREFUSED))
	})
})
