package net

import (
	"bytes"
	"context"
	"errors"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/test/env"
)

var _ = Describe("dray net check", Ordered, func() {
	var (
		api    client.Client
		config *rest.Config
	)
	const shop = "shop"

	node := func(ctx context.Context, name, address string, ready bool) {
		GinkgoHelper()
		n := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		Expect(api.Create(ctx, n)).To(Succeed())
		status := corev1.ConditionTrue
		if !ready {
			status = corev1.ConditionUnknown
		}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Message: "Its agent has stopped reporting",
			LastTransitionTime: metav1.Now(), LastHeartbeatTime: metav1.Now()}}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
		Expect(api.Status().Update(ctx, n)).To(Succeed())
	}
	pod := func(ctx context.Context, name, on, address string, ready corev1.ConditionStatus) {
		GinkgoHelper()
		p := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: name, Labels: map[string]string{"app": name}}}
		p.Spec.NodeName, p.Spec.Containers = on, []corev1.Container{{Name: "web", Image: "web"}}
		Expect(api.Create(ctx, p)).To(Succeed())
		p.Status.PodIP, p.Status.Phase = address, corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.Now()}}
		if ready != corev1.ConditionTrue {
			p.Status.Conditions[0].Message = "containers with unready status: [web]"
		}
		Expect(api.Status().Update(ctx, p)).To(Succeed())
	}
	service := func(ctx context.Context, name string, change func(*dcorev1.Service)) {
		GinkgoHelper()
		s := &dcorev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: name}}
		s.Spec = corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.20", Selector: map[string]string{"app": name},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")}},
		}
		if change != nil {
			change(s)
		}
		Expect(api.Create(ctx, s)).To(Succeed())
	}
	endpoints := func(ctx context.Context, service string, port *int32, endpoints ...discoveryv1.Endpoint) {
		GinkgoHelper()
		slice := &ddiscoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: shop, Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
		}
		if port != nil {
			slice.Ports = []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: port, Protocol: ptr.To(corev1.ProtocolTCP)}}
		}
		Expect(api.Create(ctx, slice)).To(Succeed())
	}

	BeforeAll(func(ctx SpecContext) {
		cp, err := env.Start(context.Background())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(cp.Stop)
		config = cp.Config
		api, err = cp.Client()
		Expect(err).NotTo(HaveOccurred())
		Expect(api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: shop}})).To(Succeed())
		node(ctx, "n1", "192.0.2.1", true)
		node(ctx, "n2", "192.0.2.2", true)
		node(ctx, "n3", "192.0.2.3", false)
		pod(ctx, "web", "n1", "10.244.1.2", corev1.ConditionTrue)
		pod(ctx, "slow", "n2", "10.244.2.2", corev1.ConditionFalse)
		pod(ctx, "lost", "", "", corev1.ConditionFalse)
		service(ctx, "web", nil)
		endpoints(ctx, "web", ptr.To[int32](8080), discoveryv1.Endpoint{Addresses: []string{"10.244.1.2"}},
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.3"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}})
		service(ctx, "slow", nil)
		endpoints(ctx, "slow", ptr.To[int32](8080), discoveryv1.Endpoint{Addresses: []string{"10.244.2.2"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}})
		service(ctx, "nobody", nil)
		service(ctx, "portless", func(s *dcorev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} })
		endpoints(ctx, "portless", nil, discoveryv1.Endpoint{Addresses: []string{"10.244.1.2"}})
		service(ctx, "unwritten", func(s *dcorev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} })
		service(ctx, "new", func(s *dcorev1.Service) { s.Spec.ClusterIP = "" })
		service(ctx, "own", func(s *dcorev1.Service) { s.Spec.Selector = nil })
	})

	plan := func(ctx context.Context, from, to string) (*check, map[string]*subresourcesv1alpha1.NetworkCheck) {
		GinkgoHelper()
		c, err := newCheckOf(config, shop, from, to)
		Expect(err).NotTo(HaveOccurred())
		var list dcorev1.NodeList
		Expect(api.List(ctx, &list)).To(Succeed())
		for i := range list.Items {
			c.nodes[list.Items[i].Name] = &list.Items[i]
		}
		questions, err := c.plan(ctx)
		Expect(err).NotTo(HaveOccurred())
		return c, questions
	}

	DescribeTable("says what the API shows to be broken", func(ctx SpecContext, from, to, sentence string) {
		c, _ := plan(ctx, from, to)
		Expect(c.findings).To(ContainElement(And(HaveField("Broken", true), HaveField("Message", MatchRegexp(sentence)))))
	},
		Entry("a node that is not Ready", "node/n1", "node/n3", `^Node n3 is not Ready since .* UTC: Its agent has stopped reporting\.$`),
		Entry("a pod that is not Ready", "node/n1", "pod/slow", `^Pod shop/slow is not Ready: containers with unready status: \[web\]\. Services send it nothing until it is\.$`),
		Entry("a pod on no node", "pod/lost", "service/web", `^Pod shop/lost is on no node: .* See dray explain pod lost\.$`),
		Entry("a service whose pods are not Ready", "node/n1", "service/slow",
			`^Service shop/slow has no endpoint: of the 1 pods that its selector app=slow matches none is Ready \(slow: containers with unready status: \[web\]\)\.$`),
		Entry("a service that selects nothing", "node/n1", "svc/nobody", `its selector app=nobody matches no pod of namespace shop\.$`),
		Entry("a service with a port that no pod has", "node/n1", "svc/portless", `although 1 of its pods are Ready: none of them has a port that the service names as targetPort\.$`),
		Entry("a service whose endpoints nobody wrote", "node/n1", "svc/unwritten", `has no EndpointSlice, although 1 of its pods are Ready`),
		Entry("a service without an address", "node/n1", "svc/new", `has no cluster address yet`),
		Entry("a service of somebody's own without endpoints", "node/n1", "svc/own", `no endpoint and no selector`),
	)

	It("asks the nodes concerned, those that can be", func(ctx SpecContext) {
		_, questions := plan(ctx, "", "")
		Expect(questions).To(And(HaveLen(2), HaveKey("n1"), HaveKey("n2")))
		Expect(questions["n1"].Nodes).To(ConsistOf(HaveField("Address", "192.0.2.2"), HaveField("Address", "192.0.2.3")))

		_, questions = plan(ctx, "pod/web", "pod/shop/slow")
		Expect(questions["n1"].From.Address).To(Equal("10.244.1.2"))
		Expect(questions["n1"].Pods).To(ConsistOf(HaveField("Address", "10.244.2.2")))
		Expect(questions["n1"].Nodes).To(ConsistOf(HaveField("Name", "n2")))
		Expect(questions["n2"].Nodes).To(ConsistOf(HaveField("Name", "n1")), "the way back")

		_, questions = plan(ctx, "pod/slow", "service/web")
		Expect(questions).To(HaveLen(1))
		Expect(questions["n2"].Services).To(Equal([]subresourcesv1alpha1.CheckedService{{
			Namespace: shop, Name: "web", Address: "10.96.0.20",
			Ports: []subresourcesv1alpha1.CheckedPort{{Protocol: "TCP", Port: 80, Endpoints: []string{"10.244.1.2:8080"}}},
		}}))
	})

	It("goes on when a node cannot be asked, and says so", func(ctx SpecContext) {
		c, err := newCheckOf(config, shop, "node/n1", "service/web")
		Expect(err).NotTo(HaveOccurred())
		findings, err := c.run(ctx)
		Expect(err).NotTo(HaveOccurred())
		var out bytes.Buffer
		err = write(&out, c.title(), findings, false)
		var broken brokenError
		Expect(errors.As(err, &broken)).To(BeTrue())
		Expect(broken.ExitStatus()).To(Equal(1))
		Expect(out.String()).To(HavePrefix("From node n1 to service shop/web: 1 of "))
		Expect(out.String()).To(ContainSubstring("  BROKEN  The agent of node n1 cannot be asked: "))
	})

	DescribeTable("refuses what it cannot check", func(ctx SpecContext, from, to, message string) {
		c, err := newCheckOf(config, shop, from, to)
		if err == nil {
			_, err = c.run(ctx)
		}
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("a kind", "deployment/web", "", `reading --from "deployment/web": want pod/NAME or node/NAME`),
		Entry("no name", "", "pod", `reading --to "pod": want pod/NAME or node/NAME or service/NAME`),
		Entry("a service to come from", "service/web", "", "want pod/NAME"),
		Entry("a node of a namespace", "node/shop/n1", "", "want pod/NAME"),
		Entry("no such pod", "pod/gone", "", `reading pod shop/gone: pods.core.drayage.dev "gone" not found`),
		Entry("no such node", "node/gone", "", `node "gone" does not exist`),
	)
})
