package core_test

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	coreinternal "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/printers"
	"k8s.io/kubernetes/pkg/printers/internalversion"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/controllers/core/claims"
	"drayage.dev/internal/allocation"
	"drayage.dev/internal/upstream"
)

// service builds a Service of port 80.
func service(namespace, name string, change ...func(*dcorev1.Service)) *dcorev1.Service {
	s := &dcorev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	for _, change := range change {
		change(s)
	}
	return s
}

// apply writes a service as a manifest has it upon its newest state, which controllers may change meanwhile.
func apply(ctx context.Context, s *dcorev1.Service) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var live dcorev1.Service
		if err := api.Get(ctx, client.ObjectKeyFromObject(s), &live); err != nil {
			return err
		}
		s.ResourceVersion = live.ResourceVersion
		return api.Update(ctx, s)
	})
}

func nodePort(s *dcorev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }

func create(ctx context.Context, object client.Object) {
	GinkgoHelper()
	Expect(api.Create(ctx, object)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { _ = api.Delete(ctx, object) })
}

func beReady() OmegaMatcher {
	return haveServiceCondition(dcorev1.ServiceReady, metav1.ConditionTrue, dcorev1.ServiceAllocated)
}

func haveServiceCondition(kind string, status metav1.ConditionStatus, reason string) OmegaMatcher {
	return WithTransform(func(s *dcorev1.Service) []metav1.Condition { return s.Status.Conditions },
		ContainElement(And(HaveField("Type", kind), HaveField("Status", status), HaveField("Reason", reason))))
}

// claimsOf lists the values that a service has claimed.
func claimsOf(ctx context.Context, s *dcorev1.Service) func() []string {
	return func() []string {
		GinkgoHelper()
		var list dnetworkingv1alpha1.AllocationList
		Expect(api.List(ctx, &list)).To(Succeed())
		values := []string{}
		for _, claim := range list.Items {
			if claim.Spec.Owner.UID == s.UID {
				values = append(values, claim.Spec.Value)
			}
		}
		return values
	}
}

var _ = Describe("a Service", func() {
	var namespace string

	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	It("gets an address of the range that nobody else has, says so, and gives it back", func(ctx context.Context) {
		s := service(namespace, "web")
		create(ctx, s)
		Eventually(reading(s)).WithContext(ctx).Should(beReady())
		Expect(s.Spec.ClusterIPs).To(Equal([]string{s.Spec.ClusterIP}))
		address, err := netip.ParseAddr(s.Spec.ClusterIP)
		Expect(err).NotTo(HaveOccurred())
		Expect(netip.MustParsePrefix(serviceCIDR).Contains(address)).To(BeTrue())
		Expect(address.String()).NotTo(BeElementOf("10.96.0.0", "10.96.0.1", "10.96.0.10", "10.96.0.63"))
		Expect(claimsOf(ctx, s)()).To(ConsistOf(s.Spec.ClusterIP))
		Expect(s.Status.ObservedGeneration).To(Equal(s.Generation))
		Expect(s.Status.Summary).To(Equal(dcorev1.ServiceSummary{ExternalIP: "<none>", Ports: "80/TCP"}))
		Expect(s.Status.Conditions).To(HaveLen(1), "what is not so is not said")

		Expect(api.Delete(ctx, s)).To(Succeed())
		Eventually(claimsOf(ctx, s)).Should(BeEmpty())
	})

	It("keeps what it has when its manifest is applied again", func(ctx context.Context) {
		s := service(namespace, "web", nodePort)
		create(ctx, s)
		Eventually(reading(s)).WithContext(ctx).Should(beReady())
		before := s.DeepCopy()
		again := service(namespace, "web", nodePort)
		Expect(apply(ctx, again)).To(Succeed())
		Expect(again.Spec.ClusterIP).To(Equal(before.Spec.ClusterIP))
		Expect(again.Spec.Ports).To(Equal(before.Spec.Ports))
		Consistently(claimsOf(ctx, s)).Should(ConsistOf(before.Spec.ClusterIP, strconv.Itoa(int(before.Spec.Ports[0].NodePort))))
	})

	It("gets a health check port where traffic from outside stays on the node, keeps and gives it back", func(ctx context.Context) {
		local := func(s *dcorev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
			s.Spec.AllocateLoadBalancerNodePorts = ptr.To(false)
		}
		s := service(namespace, "web", local)
		create(ctx, s)
		Eventually(reading(s)).WithContext(ctx).Should(HaveField("Spec.HealthCheckNodePort", BeNumerically(">=", 30000)))
		port := s.Spec.HealthCheckNodePort
		Expect(s.Spec.Ports[0].NodePort).To(BeZero(), "none was wanted")
		Eventually(claimsOf(ctx, s)).Should(ConsistOf(s.Spec.ClusterIP, strconv.Itoa(int(port))))

		By("applying the manifest again")
		again := service(namespace, "web", local)
		Expect(apply(ctx, again)).To(Succeed())
		Expect(again.Spec.HealthCheckNodePort).To(Equal(port))
		By("asking for another one")
		again.Spec.HealthCheckNodePort = port%32000 + 1
		Expect(apply(ctx, again)).To(MatchError(ContainSubstring("field is immutable")))

		By("serving from everywhere again")
		again = service(namespace, "web", local)
		again.Spec.ExternalTrafficPolicy = ""
		Expect(apply(ctx, again)).To(Succeed())
		Expect(again.Spec.HealthCheckNodePort).To(BeZero())
		Eventually(claimsOf(ctx, s)).Should(ConsistOf(s.Spec.ClusterIP))
	})

	It("gets exactly what it asks for, or learns who has it, and gets it when that one goes", func(ctx context.Context) {
		first := service(namespace, "first", nodePort, func(s *dcorev1.Service) {
			s.Spec.ClusterIP, s.Spec.Ports[0].NodePort = "10.96.0.7", 30007
		})
		create(ctx, first)
		Eventually(reading(first)).WithContext(ctx).Should(beReady())
		Expect(first.Status.Summary.Ports).To(Equal("80:30007/TCP"))

		second := service(namespace, "second", nodePort, func(s *dcorev1.Service) {
			s.Spec.ClusterIP, s.Spec.Ports[0].NodePort = "10.96.0.7", 30007
		})
		create(ctx, second)
		Eventually(reading(second)).WithContext(ctx).Should(And(
			haveServiceCondition(dcorev1.ServiceReady, metav1.ConditionFalse, dcorev1.ServiceClusterIPTaken),
			haveServiceCondition(dcorev1.ServiceStalled, metav1.ConditionTrue, dcorev1.ServiceClusterIPTaken)))
		holder := fmt.Sprintf("10.96.0.7 is already allocated to Service %s/first", namespace)
		Expect(second.Status.Conditions[0].Message).To(ContainSubstring("clusterIP " + holder))
		Eventually(func() []string { return events(ctx, namespace) }).Should(ContainElements(
			"ClusterIPTaken: clusterIP "+holder,
			"NodePortTaken: nodePort 30007 is already allocated to Service "+namespace+"/first"))

		Expect(api.Delete(ctx, first)).To(Succeed())
		Eventually(reading(second)).WithContext(ctx).Should(beReady())
		Expect(claimsOf(ctx, second)()).To(ConsistOf("10.96.0.7", "30007"))
	})

	DescribeTable("is told what is out of range or set aside", func(ctx context.Context, reason, message string, change func(*dcorev1.Service)) {
		s := service(namespace, "web", change)
		create(ctx, s)
		Eventually(reading(s)).WithContext(ctx).Should(haveServiceCondition(dcorev1.ServiceReady, metav1.ConditionFalse, reason))
		Expect(s.Status.Conditions[0].Message).To(ContainSubstring(message))
	},
		Entry(nil, dcorev1.ServiceClusterIPOutOfRange, "the provided IP (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/26",
			func(s *dcorev1.Service) { s.Spec.ClusterIP = "10.97.0.1" }),
		Entry(nil, dcorev1.ServiceClusterIPOutOfRange, "(10.96.0.63) is not in the valid range",
			func(s *dcorev1.Service) { s.Spec.ClusterIP = "10.96.0.63" }),
		Entry(nil, dcorev1.ServiceClusterIPTaken, "10.96.0.1 is reserved for Service default/kubernetes",
			func(s *dcorev1.Service) { s.Spec.ClusterIP = "10.96.0.1" }),
		Entry(nil, dcorev1.ServiceClusterIPTaken, "10.96.0.10 is reserved for the cluster's DNS",
			func(s *dcorev1.Service) { s.Spec.ClusterIP = "10.96.0.10" }),
		Entry(nil, dcorev1.ServiceNodePortOutOfRange, "nodePort 80 is not in the valid range. The range of valid ports is 30000-32767",
			func(s *dcorev1.Service) { nodePort(s); s.Spec.Ports[0].NodePort = 80 }),
	)

	It("has its node ports drawn, one for a number in several protocols, and gives them back", func(ctx context.Context) {
		s := service(namespace, "dns", nodePort, func(s *dcorev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP},
				{Name: "metrics", Port: 9153},
			}
		})
		create(ctx, s)
		Eventually(reading(s)).WithContext(ctx).Should(beReady())
		ports := s.Spec.Ports
		Expect(ports[0].NodePort).To(And(BeNumerically(">=", 30000), BeNumerically("<=", 32767)))
		Expect(ports[1].NodePort).To(Equal(ports[0].NodePort))
		Expect(ports[2].NodePort).NotTo(BeElementOf(int32(0), ports[0].NodePort))

		edit(ctx, s, func(s *dcorev1.Service) {
			s.Spec.Type = corev1.ServiceTypeClusterIP
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].NodePort = 0
			}
		})
		Eventually(claimsOf(ctx, s)).Should(ConsistOf(s.Spec.ClusterIP))
	})

	It("without an address of its own claims nothing", func(ctx context.Context) {
		headless := service(namespace, "headless", func(s *dcorev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
		external := service(namespace, "external", func(s *dcorev1.Service) {
			s.Spec.Type, s.Spec.ExternalName, s.Spec.Selector = corev1.ServiceTypeExternalName, "example.com", nil
		})
		for _, s := range []*dcorev1.Service{headless, external} {
			create(ctx, s)
			Eventually(reading(s)).WithContext(ctx).Should(beReady())
			Expect(claimsOf(ctx, s)()).To(BeEmpty())
		}
		Expect(headless.Spec.ClusterIPs).To(Equal([]string{"None"}))
		Expect(external.Spec.ClusterIP).To(BeEmpty())
		Expect(external.Status.Summary.ExternalIP).To(Equal("example.com"))
	})

	It("that balances is answered with the addresses of the ready nodes", func(ctx context.Context) {
		s := service(namespace, "lb", func(s *dcorev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
		create(ctx, s)
		Eventually(reading(s)).WithContext(ctx).Should(haveServiceCondition(dcorev1.ServiceReady, metav1.ConditionFalse, dcorev1.ServiceAddressPending))
		Expect(s.Status.Summary.ExternalIP).To(Equal("<pending>"))

		addNode(ctx, "lb-b", "192.0.2.2", corev1.ConditionFalse)
		node := addNode(ctx, "lb-a", "192.0.2.1", corev1.ConditionTrue)
		Eventually(reading(s)).WithContext(ctx).Should(beReady())
		Expect(s.Status.LoadBalancer.Ingress).To(ConsistOf(HaveField("IP", "192.0.2.1")))
		Expect(s.Status.Summary.ExternalIP).To(Equal("192.0.2.1"))

		Expect(api.Delete(ctx, node)).To(Succeed())
		Eventually(reading(s)).WithContext(ctx).Should(HaveField("Status.LoadBalancer.Ingress", BeEmpty()))
	})

	It("is found in all namespaces, keeps what others say in its status, and goes with a collection", func(ctx context.Context) {
		named := func(name string) *dcorev1.Service {
			return service(namespace, name, func(s *dcorev1.Service) { s.Labels = map[string]string{"of": namespace} })
		}
		for _, name := range []string{"one", "two", "three"} {
			create(ctx, named(name))
		}
		everywhere := &dcorev1.ServiceList{}
		Expect(api.List(ctx, everywhere, client.MatchingLabels{"of": namespace})).To(Succeed())
		Expect(everywhere.Items).To(HaveLen(3))

		s := named("one")
		Eventually(reading(s)).WithContext(ctx).Should(beReady())
		address := s.Spec.ClusterIP
		told := metav1.Condition{Type: "example.com/Told", Status: metav1.ConditionTrue, Reason: "Spec", LastTransitionTime: metav1.Now()}
		s.Status.Conditions, s.Spec.ClusterIP = append(s.Status.Conditions, told), "192.0.2.1"
		Expect(api.Status().Update(ctx, s)).To(Succeed())
		edit(ctx, s, func(s *dcorev1.Service) { s.Spec.Ports[0].Port = 81 })
		Eventually(reading(s)).WithContext(ctx).Should(HaveField("Status.Conditions", ContainElement(And(
			HaveField("Type", dcorev1.ServiceReady), HaveField("ObservedGeneration", s.Generation)))))
		Expect(s.Status.Conditions).To(ContainElement(HaveField("Type", told.Type)))
		Expect(s.Spec.ClusterIP).To(Equal(address), "a write of the status writes nothing else")

		Expect(api.DeleteAllOf(ctx, &dcorev1.Service{}, client.InNamespace(namespace), client.MatchingLabels{"of": namespace})).To(Succeed())
		Expect(api.List(ctx, everywhere, client.MatchingLabels{"of": namespace})).To(Succeed())
		Expect(everywhere.Items).To(BeEmpty())
		again := service(namespace, "again", func(s *dcorev1.Service) { s.Spec.ClusterIP = address })
		create(ctx, again)
		Eventually(reading(again)).WithContext(ctx).Should(beReady(), "the address is free")
	})

	It("is summed up as kubectl prints it", func(ctx context.Context) {
		for i := range 3 {
			addNode(ctx, fmt.Sprint("sum-", i), fmt.Sprint("192.0.2.", 10+i), corev1.ConditionTrue)
		}
		printer := printers.NewTableGenerator().With(internalversion.AddHandlers)
		for i, change := range []func(*dcorev1.Service){
			nodePort,
			func(s *dcorev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer },
			func(s *dcorev1.Service) {
				s.Spec.Type, s.Spec.ExternalName, s.Spec.Ports = corev1.ServiceTypeExternalName, "example.com", nil
			},
			func(s *dcorev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = "None", nil },
		} {
			s := service(namespace, fmt.Sprint("s", i), change)
			create(ctx, s)
			Eventually(reading(s)).WithContext(ctx).Should(beReady())
			internal := &coreinternal.Service{}
			Expect(legacyscheme.Scheme.Convert(upstream.Service(s), internal, nil)).To(Succeed())
			table, err := printer.GenerateTable(internal, printers.GenerateOptions{})
			Expect(err).NotTo(HaveOccurred())
			Expect([]any{s.Status.Summary.ExternalIP, s.Status.Summary.Ports}).To(Equal(table.Rows[0].Cells[3:5]))
		}
	})
})

var _ = Describe("claims", func() {
	var namespace string

	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	It("that a killed manager made and did not write down are used by the next one", func(ctx context.Context) {
		// This service claims nothing, so its claims here are as a killed manager leaves them.
		s := service(namespace, "web", func(s *dcorev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		})
		create(ctx, s)
		Eventually(reading(s)).WithContext(ctx).Should(beReady())
		for _, claim := range []*dnetworkingv1alpha1.Allocation{
			allocation.ServiceIP(netip.MustParseAddr("10.96.0.9"), claims.OwnerOf(claims.Service, s)),
			allocation.NodePort(30009, claims.OwnerOf(claims.Service, s)),
		} {
			Expect(api.Create(ctx, claim)).To(Succeed())
		}
		// The manager that comes next knows them: the end of a later claim shows that this one does.
		other := service(namespace, "other")
		create(ctx, other)
		Eventually(reading(other)).WithContext(ctx).Should(beReady())
		later := allocation.ServiceIP(netip.MustParseAddr(other.Spec.ClusterIP), claims.OwnerOf(claims.Service, other))
		Expect(api.Delete(ctx, later)).To(Succeed())
		Eventually(claimsOf(ctx, other)).Should(ConsistOf(other.Spec.ClusterIP))
		edit(ctx, s, func(s *dcorev1.Service) { s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeNodePort, "" })
		Eventually(reading(s)).WithContext(ctx).Should(And(
			HaveField("Spec.ClusterIP", "10.96.0.9"), HaveField("Spec.Ports", ConsistOf(HaveField("NodePort", int32(30009))))))
	})

	It("of owners that are gone are taken over by who asks for them", func(ctx context.Context) {
		stale := allocation.NodePort(32001, dnetworkingv1alpha1.AllocationOwner{Kind: "Service", Namespace: namespace, Name: "gone", UID: "gone"})
		Expect(api.Create(ctx, stale)).To(Succeed())
		s := service(namespace, "web", nodePort, func(s *dcorev1.Service) { s.Spec.Ports[0].NodePort = 32001 })
		create(ctx, s)
		Eventually(reading(s)).WithContext(ctx).Should(beReady())
		Eventually(claimsOf(ctx, s)).Should(ContainElement("32001"))
	})

	It("that somebody deletes are made again", func(ctx context.Context) {
		s := service(namespace, "web")
		create(ctx, s)
		Eventually(reading(s)).WithContext(ctx).Should(beReady())
		claim := allocation.ServiceIP(netip.MustParseAddr(s.Spec.ClusterIP), claims.OwnerOf(claims.Service, s))
		Expect(api.Delete(ctx, claim)).To(Succeed())
		Eventually(claimsOf(ctx, s)).Should(ConsistOf(s.Spec.ClusterIP))
	})

	It("are never two for one thing, however many managers are at work", func(ctx context.Context) {
		startManager(config())
		startManager(config())
		var all []*dcorev1.Service
		for i := range 30 {
			s := service(namespace, fmt.Sprint("s", i), nodePort)
			create(ctx, s)
			all = append(all, s)
		}
		seen := map[string]string{}
		for _, s := range all {
			Eventually(reading(s)).WithContext(ctx).Should(beReady())
			port := strconv.Itoa(int(s.Spec.Ports[0].NodePort))
			for _, value := range []string{s.Spec.ClusterIP, port} {
				Expect(seen).NotTo(HaveKey(value), "which %s has", s.Name)
				seen[value] = s.Name
			}
			Eventually(claimsOf(ctx, s)).Should(ConsistOf(s.Spec.ClusterIP, port))
		}
	})

	It("run out with the range, which is said, and come back", func(ctx context.Context) {
		var all []*dcorev1.Service
		for i := range 64 {
			s := service(namespace, fmt.Sprint("s", i))
			Expect(api.Create(ctx, s)).To(Succeed())
			all = append(all, s)
		}
		last := func() *dcorev1.Service {
			for _, s := range all {
				Expect(api.Get(ctx, client.ObjectKeyFromObject(s), s)).To(Succeed())
				if s.Spec.ClusterIP == "" && len(s.Status.Conditions) > 0 {
					return s
				}
			}
			return nil
		}
		var waiting *dcorev1.Service
		Eventually(func() *dcorev1.Service { waiting = last(); return waiting }, "3m", "500ms").ShouldNot(BeNil())
		Expect(waiting).To(haveServiceCondition(dcorev1.ServiceReady, metav1.ConditionFalse, dcorev1.ServiceClusterIPsExhausted))
		seen := map[string]bool{}
		for _, s := range all {
			Expect(api.Get(ctx, client.ObjectKeyFromObject(s), s)).To(Succeed())
			if s.Spec.ClusterIP != "" {
				Expect(seen).NotTo(HaveKey(s.Spec.ClusterIP))
				seen[s.Spec.ClusterIP] = true
			}
		}
		for _, s := range all {
			if s.Name != waiting.Name {
				Expect(client.IgnoreNotFound(api.Delete(ctx, s))).To(Succeed())
			}
		}
		Eventually(reading(waiting)).WithContext(ctx).Should(beReady())
		Expect(api.Delete(ctx, waiting)).To(Succeed())
		Eventually(func() bool { return apierrors.IsNotFound(api.Get(ctx, client.ObjectKeyFromObject(waiting), waiting)) }).Should(BeTrue())
	})
})
