package core_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gmeasure"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	upstreamslices "k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/controllers/core/endpointslice"
	"drayage.dev/internal/upstream"
	"drayage.dev/test/changes"
)

// pod builds a pod bound to a node, with a named port.
func pod(namespace, name, app, node string) *dcorev1.Pod {
	return &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Name: "app", Image: "app:1", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}},
		}}},
	}
}

// runPod makes a pod and its status: running at an address, ready or not. It is gone at the spec's end.
func runPod(ctx context.Context, p *dcorev1.Pod, ip string, ready bool) *dcorev1.Pod {
	GinkgoHelper()
	Expect(api.Create(ctx, p)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { removePod(ctx, p) })
	editStatus(ctx, p, func(p *dcorev1.Pod) {
		p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
		setReady(p, ready)
	})
	return p
}

func setReady(p *dcorev1.Pod, ready bool) {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()}}
}

// removePod deletes a pod as its agent does: finalizer and all.
func removePod(ctx context.Context, p *dcorev1.Pod) {
	GinkgoHelper()
	Expect(client.IgnoreNotFound(api.Delete(ctx, p))).To(Succeed())
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	Expect(client.IgnoreNotFound(api.Patch(ctx, p, patch))).To(Succeed())
}

func slicesOf(ctx context.Context, s *dcorev1.Service) []ddiscoveryv1.EndpointSlice {
	GinkgoHelper()
	var list ddiscoveryv1.EndpointSliceList
	Expect(api.List(ctx, &list, client.InNamespace(s.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: s.Name})).To(Succeed())
	return list.Items
}

// endpoints lists a service's endpoints as "address ready serving terminating", ordered.
func endpoints(ctx context.Context, s *dcorev1.Service) func() []string {
	return func() []string {
		GinkgoHelper()
		list := []string{}
		for _, slice := range slicesOf(ctx, s) {
			for _, e := range slice.Endpoints {
				list = append(list, fmt.Sprintf("%s %t %t %t", e.Addresses[0], *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating))
			}
		}
		slices.Sort(list)
		return list
	}
}

var _ = Describe("endpoints", func() {
	var (
		namespace, node string
		s               *dcorev1.Service
	)

	BeforeEach(func(ctx context.Context) {
		namespace = newNamespace(ctx)
		node = addNode(ctx, "node-of-"+namespace, "192.0.2.1", corev1.ConditionTrue).Name
		s = service(namespace, "web", func(s *dcorev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("web") })
	})

	It("follow pods: their readiness, their end and their labels", func(ctx context.Context) {
		create(ctx, s)
		Eventually(func() []ddiscoveryv1.EndpointSlice { return slicesOf(ctx, s) }).Should(HaveLen(1))
		a := runPod(ctx, pod(namespace, "a", "web", node), "10.244.0.1", false)
		b := runPod(ctx, pod(namespace, "b", "web", node), "10.244.0.2", true)
		runPod(ctx, pod(namespace, "c", "other", node), "10.244.0.3", true)
		Eventually(endpoints(ctx, s)).Should(Equal([]string{"10.244.0.1 false false false", "10.244.0.2 true true false"}))

		slice := slicesOf(ctx, s)[0]
		Expect(slice.Ports).To(ConsistOf(And(HaveField("Name", HaveValue(Equal("http"))), HaveField("Port", HaveValue(Equal(int32(8080)))))))
		Expect(slice.OwnerReferences).To(ConsistOf(And(HaveField("APIVersion", "core.drayage.dev/v1"), HaveField("Kind", "Service"), HaveField("UID", s.UID))))
		Expect(slice.Labels).To(And(HaveKeyWithValue(discoveryv1.LabelManagedBy, endpointslice.ManagedBy), Not(HaveKey(corev1.IsHeadlessService))))
		Expect(slice.ManagedFields).To(BeEmpty())
		Expect(slice.Endpoints).To(ContainElement(And(
			HaveField("NodeName", HaveValue(Equal(node))),
			HaveField("TargetRef", HaveValue(Equal(corev1.ObjectReference{
				APIVersion: "core.drayage.dev/v1", Kind: "Pod", Namespace: namespace, Name: "b", UID: b.UID}))))))

		editStatus(ctx, a, func(p *dcorev1.Pod) { setReady(p, true) })
		Eventually(endpoints(ctx, s)).Should(ContainElement("10.244.0.1 true true false"))
		Expect(api.Delete(ctx, b)).To(Succeed())
		Eventually(endpoints(ctx, s)).Should(ContainElement("10.244.0.2 false true true"))
		removePod(ctx, b)
		Eventually(endpoints(ctx, s)).Should(Equal([]string{"10.244.0.1 true true false"}))
		edit(ctx, a, func(p *dcorev1.Pod) { p.Labels["app"] = "debug" })
		Eventually(endpoints(ctx, s)).Should(BeEmpty())
		edit(ctx, a, func(p *dcorev1.Pod) { p.Labels["app"] = "web" })
		Eventually(endpoints(ctx, s)).Should(HaveLen(1))
		editStatus(ctx, a, func(p *dcorev1.Pod) { p.Status.Phase = corev1.PodSucceeded; setReady(p, false) })
		Eventually(endpoints(ctx, s)).Should(BeEmpty())
	})

	It("are there for addresses that are not ready when the service wants so, with host names", func(ctx context.Context) {
		s.Spec.ClusterIP, s.Spec.PublishNotReadyAddresses = "None", true
		create(ctx, s)
		p := pod(namespace, "a", "web", node)
		p.Spec.Hostname, p.Spec.Subdomain = "db-0", "web"
		runPod(ctx, p, "10.244.0.1", false)
		Eventually(endpoints(ctx, s)).Should(Equal([]string{"10.244.0.1 true false false"}))
		slice := slicesOf(ctx, s)[0]
		Expect(slice.Endpoints[0].Hostname).To(HaveValue(Equal("db-0")))
		Expect(slice.Labels).To(HaveKey(corev1.IsHeadlessService))
	})

	It("of services without selector, and those that others manage, are left alone", func(ctx context.Context) {
		group := func(name, service string) *ddiscoveryv1.EndpointSlice {
			return &ddiscoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: namespace, Name: name, Annotations: map[string]string{ddiscoveryv1.WeightAnnotation: "10"},
					Labels: map[string]string{
						discoveryv1.LabelServiceName: service, ddiscoveryv1.GroupLabel: "canary", discoveryv1.LabelManagedBy: "somebody.example.com",
					},
				},
				AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.99"}}},
			}
		}
		s.Spec.Selector = nil
		create(ctx, s)
		create(ctx, group("mine", "web"))
		edit(ctx, s, func(s *dcorev1.Service) { s.Labels = map[string]string{"a": "b"} })
		Consistently(func() []ddiscoveryv1.EndpointSlice { return slicesOf(ctx, s) }).Should(ConsistOf(HaveField("Name", "mine")))

		By("beside those of a service with a selector")
		selecting := service(namespace, "both")
		selecting.Spec.Selector = map[string]string{"app": "web"}
		create(ctx, selecting)
		theirs := group("theirs", "both")
		create(ctx, theirs)
		version := theirs.ResourceVersion
		p := runPod(ctx, pod(namespace, "a", "web", node), "10.244.0.1", true)
		Eventually(func() []ddiscoveryv1.EndpointSlice { return slicesOf(ctx, selecting) }).Should(ConsistOf(
			HaveField("Name", "theirs"), HaveField("Endpoints", ConsistOf(HaveField("Addresses", []string{"10.244.0.1"})))))
		editStatus(ctx, p, func(p *dcorev1.Pod) { setReady(p, false) })
		ours := func() []ddiscoveryv1.EndpointSlice {
			return slices.DeleteFunc(slicesOf(ctx, selecting), func(slice ddiscoveryv1.EndpointSlice) bool { return slice.Name == "theirs" })
		}
		Eventually(ours).Should(ConsistOf(HaveField("Endpoints", ConsistOf(HaveField("Conditions.Ready", HaveValue(BeFalse()))))))
		removePod(ctx, p)
		Eventually(ours).Should(ConsistOf(HaveField("Endpoints", BeEmpty())))
		Expect(api.Get(ctx, client.ObjectKeyFromObject(theirs), theirs)).To(Succeed())
		Expect(theirs.ResourceVersion).To(Equal(version), "nobody wrote it")
	})

	It("come back when somebody changes or deletes their slice", func(ctx context.Context) {
		create(ctx, s)
		runPod(ctx, pod(namespace, "a", "web", node), "10.244.0.1", true)
		Eventually(endpoints(ctx, s)).Should(HaveLen(1))
		slice := slicesOf(ctx, s)[0]
		edit(ctx, &slice, func(s *ddiscoveryv1.EndpointSlice) { s.Endpoints = []discoveryv1.Endpoint{} })
		Eventually(endpoints(ctx, s)).Should(HaveLen(1))
		Expect(api.Delete(ctx, &slice)).To(Succeed())
		Eventually(endpoints(ctx, s)).Should(HaveLen(1))
	})

	It("go with the service", func(ctx context.Context) {
		create(ctx, s)
		Eventually(func() []ddiscoveryv1.EndpointSlice { return slicesOf(ctx, s) }).Should(HaveLen(1))
		Expect(api.Delete(ctx, s)).To(Succeed())
		Eventually(func() []ddiscoveryv1.EndpointSlice { return slicesOf(ctx, s) }).Should(BeEmpty())
	})

	It("change with each pod, and a flood of pods takes no more writes than there are pods", func(ctx context.Context) {
		create(ctx, s)
		p := runPod(ctx, pod(namespace, "a", "web", node), "10.244.0.1", false)
		Eventually(endpoints(ctx, s)).Should(HaveLen(1))
		follow, err := changes.Of(ctx, api, &ddiscoveryv1.EndpointSliceList{}, client.InNamespace(namespace))
		Expect(err).NotTo(HaveOccurred())
		defer follow.Stop()
		experiment := gmeasure.NewExperiment("pod status to slice")
		for i := range 20 {
			ready := i%2 == 0
			editStatus(ctx, p, func(p *dcorev1.Pod) { setReady(p, ready) })
			start := time.Now()
			Eventually(follow.ResultChan()).Should(Receive(Satisfy(func(event watch.Event) bool {
				slice, ok := event.Object.(*ddiscoveryv1.EndpointSlice)
				return ok && len(slice.Endpoints) == 1 && *slice.Endpoints[0].Conditions.Ready == ready
			})))
			experiment.RecordDuration("after the write's answer", time.Since(start))
		}
		AddReportEntry(experiment.Name, experiment)

		before := slicesOf(ctx, s)[0].Generation
		const flood = 60
		for i := range flood {
			runPod(ctx, pod(namespace, fmt.Sprint("flood-", i), "web", node), fmt.Sprint("10.244.1.", i), true)
		}
		Eventually(endpoints(ctx, s)).Should(HaveLen(flood + 1))
		writes := slicesOf(ctx, s)[0].Generation - before
		AddReportEntry("writes for a flood of pods", fmt.Sprintf("%d pods, %d writes", flood, writes))
		Expect(writes).To(BeNumerically("<=", flood))
	})
})

var _ = Describe("endpoints, against upstream's reconciler on upstream's kinds", func() {
	It("are the same for random services and pods", func(ctx context.Context) {
		random := rand.New(rand.NewSource(GinkgoRandomSeed()))
		namespace := newNamespace(ctx)
		node := addNode(ctx, "random-node", "192.0.2.1", corev1.ConditionTrue)
		var services []*dcorev1.Service
		for i := range 6 {
			s := service(namespace, fmt.Sprint("s", i), func(s *dcorev1.Service) {
				s.Spec.Selector = map[string]string{"app": fmt.Sprint("app-", random.Intn(3))}
				s.Spec.PublishNotReadyAddresses = random.Intn(3) == 0
				if random.Intn(3) == 0 {
					s.Spec.ClusterIP = "None"
				}
				s.Spec.Ports[0].TargetPort = intstr.FromString("web")
				if random.Intn(2) == 0 {
					s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "second", Port: 90, TargetPort: intstr.FromInt32(9090)})
				}
			})
			create(ctx, s)
			services = append(services, s)
		}
		var pods []*dcorev1.Pod
		for i := range 30 {
			p := pod(namespace, fmt.Sprint("p", i), fmt.Sprint("app-", random.Intn(3)), node.Name)
			p.Spec.Containers[0].Ports[0].ContainerPort = int32(8080 + random.Intn(2))
			if random.Intn(4) == 0 {
				p.Spec.Hostname, p.Spec.Subdomain = fmt.Sprint("h", i), services[random.Intn(len(services))].Name
			}
			pods = append(pods, runPod(ctx, p, fmt.Sprint("10.244.2.", i+1), random.Intn(3) > 0))
			switch random.Intn(8) {
			case 0:
				Expect(api.Delete(ctx, p)).To(Succeed())
			case 1:
				editStatus(ctx, p, func(p *dcorev1.Pod) { p.Status.Phase = corev1.PodFailed })
			}
		}
		nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
		Expect(nodes.Add(upstream.Node(node))).To(Succeed())
		for _, s := range services {
			Eventually(reading(s)).WithContext(ctx).Should(HaveField("Spec.ClusterIP", Not(BeEmpty())))
			clientset := fake.NewClientset()
			clientset.PrependReactor("create", "endpointslices", func(action clienttesting.Action) (bool, runtime.Object, error) {
				slice := action.(clienttesting.CreateAction).GetObject().(*discoveryv1.EndpointSlice)
				slice.Name = names.SimpleNameGenerator.GenerateName(slice.GenerateName)
				return false, nil, nil
			})
			reconciler := upstreamslices.NewReconciler(clientset, corelisters.NewNodeLister(nodes), 100,
				endpointsliceutil.NewEndpointSliceTracker(), nil, nil, endpointslice.ManagedBy)
			var selected []*corev1.Pod
			for _, p := range pods {
				Expect(api.Get(ctx, client.ObjectKeyFromObject(p), p)).To(Succeed())
				if p.Labels["app"] == s.Spec.Selector["app"] {
					selected = append(selected, upstream.Pod(p))
				}
			}
			Expect(reconciler.Reconcile(klog.Background(), upstream.Service(s), selected, nil, time.Time{})).To(Succeed())
			theirs, err := clientset.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{})
			Expect(err).NotTo(HaveOccurred())
			wanted := []string{}
			for _, slice := range theirs.Items {
				wanted = append(wanted, describe(slice.Labels, slice.Ports, slice.Endpoints)...)
			}
			slices.Sort(wanted)
			Eventually(func() []string {
				ours := []string{}
				for _, slice := range slicesOf(ctx, s) {
					ours = append(ours, describe(slice.Labels, slice.Ports, slice.Endpoints)...)
				}
				slices.Sort(ours)
				return ours
			}).Should(Equal(wanted))
		}
	})
})

// describe writes each endpoint of a slice with everything that the slice says of it.
func describe(labels map[string]string, ports []discoveryv1.EndpointPort, list []discoveryv1.Endpoint) []string {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b discoveryv1.EndpointPort) int { return cmp.Compare(*a.Name, *b.Name) })
	text := ""
	for _, port := range ports {
		text += fmt.Sprintf("%s:%d/%s ", *port.Name, *port.Port, *port.Protocol)
	}
	var lines []string
	for _, e := range list {
		lines = append(lines, fmt.Sprint(text, labels, e.Addresses, *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating,
			ptr.Deref(e.Hostname, ""), ptr.Deref(e.NodeName, ""), e.TargetRef.Kind, e.TargetRef.Namespace, e.TargetRef.Name, e.TargetRef.UID))
	}
	return lines
}
