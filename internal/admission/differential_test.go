package admission_test

import (
	"context"
	"math/rand/v2"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/intstr"
	util "k8s.io/kubernetes/pkg/api/v1/service"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/capabilities"
	deploymentregistry "k8s.io/kubernetes/pkg/registry/apps/deployment"
	replicasetregistry "k8s.io/kubernetes/pkg/registry/apps/replicaset"
	serviceregistry "k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/utils/ptr"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/admission"
)

// rounds is how many random objects a differential spec tries.
const rounds = 3000

var _ = Describe("pods, compared with upstream's own way", func() {
	BeforeEach(func() { capabilities.Setup(true, 0) }) // --allow-privileged

	It("are prepared and refused alike", func(ctx context.Context) {
		r := rand.New(rand.NewPCG(1, uint64(GinkgoRandomSeed())))
		lookup := newLookup()
		upstream := newOracle(lookup)
		valid := 0
		for range rounds {
			pod := randomPod(r)
			want, wantErr := upstream.create(ctx, pod)
			got := pod.DeepCopy()
			_, errs := admission.Prepare(ctx, got, lookup)
			name := got.Name
			if name == "" {
				name = got.GenerateName
			}
			gotErr := admission.StatusError(dcorev1.GroupVersion.WithKind("Pod").GroupKind(), dcorev1.Resource("pods"), name, onlyUpstreams(errs))
			Expect(explain(gotErr)).To(Equal(explain(wantErr)), "%+v", pod)
			if wantErr != nil {
				continue
			}
			valid++
			Expect(got.Finalizers).To(Equal([]string{dcorev1.NodeFinalizer}))
			Expect(same(normal(got), normal(want))).To(BeTrue(), diff.Diff(normal(want), normal(got)))

			again := got.DeepCopy()
			_, errs = admission.Prepare(ctx, again, lookup)
			Expect(onlyUpstreams(errs)).To(BeEmpty())
			Expect(same(normal(again), normal(got))).To(BeTrue(), "prepared twice: %s", diff.Diff(normal(got), normal(again)))
		}
		Expect(valid).To(BeNumerically(">", rounds/10), "too few pods were valid to say anything")
	})

	It("change and are refused to change alike", func(ctx context.Context) {
		r := rand.New(rand.NewPCG(2, uint64(GinkgoRandomSeed())))
		lookup := newLookup()
		upstream := newOracle(lookup)
		allowed := 0
		for tried := 0; tried < rounds/3; {
			old := randomPod(r)
			if _, errs := admission.Prepare(ctx, old, lookup); len(errs) > 0 || old.Name == "" {
				continue
			}
			tried++
			old.UID, old.ResourceVersion = "u", "1"
			old.Spec.NodeName = pick(r, old.Spec.NodeName, "n1")
			pod := old.DeepCopy()
			if r.IntN(2) == 0 {
				pick(r, podUpdates...)(r, pod)
			} else {
				changePod(r, pod, 1+r.IntN(2))
			}
			pod.Name, pod.GenerateName = old.Name, old.GenerateName
			if old.Spec.NodeName == "" {
				pod.Spec.NodeName = "" // bindings have specs of their own
			}
			kept := pod.DeepCopy()
			admission.KeepToken(kept, old)
			want, wantErr := upstream.update(ctx, kept, old)
			got := pod.DeepCopy()
			_, errs := admission.PrepareObject(ctx, got, old.DeepCopy(), lookup)
			gotErr := admission.StatusError(dcorev1.GroupVersion.WithKind("Pod").GroupKind(), dcorev1.Resource("pods"), got.Name, onlyUpstreams(errs))
			Expect(explain(gotErr)).To(Equal(explain(wantErr)), "%+v", pod)
			if wantErr == nil {
				allowed++
				Expect(same(normal(got), normal(want))).To(BeTrue(), diff.Diff(normal(want), normal(got)))
			}
		}
		Expect(allowed).To(BeNumerically(">", rounds/30))
	})
})

// podUpdates are the changes that upstream allows, or almost.
var podUpdates = []func(r *rand.Rand, pod *corev1.Pod){
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.Containers[0].Image = pick(r, "web:2", "", " ") },
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To(pick[int64](r, 5, 100000)) },
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "new", Operator: corev1.TolerationOpExists})
	},
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.Tolerations = nil },
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.SchedulingGates = nil },
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1) },
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd", "zone": "a"} },
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.Priority, p.Spec.PreemptionPolicy = nil, nil },
	func(r *rand.Rand, p *corev1.Pod) { p.Labels = map[string]string{"other": "label"} },
	func(r *rand.Rand, p *corev1.Pod) { p.Finalizers = nil },
}

var _ = Describe("workloads, compared with upstream's strategies", func() {
	It("has Deployments prepared and refused alike", func(ctx context.Context) {
		r := rand.New(rand.NewPCG(3, uint64(GinkgoRandomSeed())))
		for range rounds / 3 {
			old, obj := newDeployment(), newDeployment()
			changeDeployment(r, obj)
			compare(ctx, obj, old, deploymentregistry.Strategy, func() runtime.Object { return &apps.Deployment{} })
		}
	})

	It("has ReplicaSets prepared and refused alike", func(ctx context.Context) {
		r := rand.New(rand.NewPCG(4, uint64(GinkgoRandomSeed())))
		for range rounds / 3 {
			old, obj := newReplicaSet(), newReplicaSet()
			changeTemplate(r, &obj.Spec.Template)
			if r.IntN(3) == 0 {
				obj.Spec.Replicas = ptr.To(pick[int32](r, 0, 3, -1))
				obj.Spec.Selector.MatchLabels = map[string]string{"app": pick(r, "web", "other")}
			}
			compare(ctx, obj, old, replicasetregistry.Strategy, func() runtime.Object { return &apps.ReplicaSet{} })
		}
	})

	It("has Services prepared and refused alike", func(ctx context.Context) {
		r := rand.New(rand.NewPCG(5, uint64(GinkgoRandomSeed())))
		for range rounds / 3 {
			old, obj := newService(), newService()
			for range 1 + r.IntN(3) {
				pick(r, serviceChanges...)(r, obj)
			}
			// What upstream's storage sets in front of its strategy, on a cluster of one family.
			for _, s := range []*corev1.Service{old, obj} {
				if s.Spec.Type != corev1.ServiceTypeExternalName {
					s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = []corev1.IPFamily{corev1.IPv4Protocol}, ptr.To(corev1.IPFamilyPolicySingleStack)
				}
				if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
					s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
				}
				if util.NeedsHealthCheck(s) && s.Spec.HealthCheckNodePort == 0 {
					s.Spec.HealthCheckNodePort = 30999
				}
			}
			compare(ctx, obj, old, serviceregistry.Strategy, func() runtime.Object { return &core.Service{} })
		}
	})
})

func changeDeployment(r *rand.Rand, d *appsv1.Deployment) {
	changeTemplate(r, &d.Spec.Template)
	for range r.IntN(3) {
		pick(r,
			func() { d.Spec.Replicas = ptr.To(pick[int32](r, 0, 3, -1)) },
			func() { d.Spec.Strategy.Type = pick(r, appsv1.RecreateDeploymentStrategyType, "Other") },
			func() {
				d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{
					MaxSurge:       pick(r, nil, ptr.To(intstr.FromString("30%")), ptr.To(intstr.FromInt32(0)), ptr.To(intstr.FromString("x"))),
					MaxUnavailable: pick(r, nil, ptr.To(intstr.FromInt32(0)), ptr.To(intstr.FromString("150%"))),
				}
			},
			func() { d.Spec.ProgressDeadlineSeconds = ptr.To(pick[int32](r, 600, 1, -1)) },
			func() { d.Spec.MinReadySeconds = pick[int32](r, 5, -1) },
			func() { d.Spec.RevisionHistoryLimit = ptr.To(pick[int32](r, 0, -1)) },
			func() {
				d.Spec.Selector = pick(r, nil, &metav1.LabelSelector{}, &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}})
			},
			func() { d.Name = pick(r, "web", "Web", "") },
		)()
	}
}

// changeTemplate changes a template as a pod is changed.
func changeTemplate(r *rand.Rand, t *corev1.PodTemplateSpec) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: *t.Spec.DeepCopy()}
	changePod(r, pod, r.IntN(3))
	t.Labels, t.Annotations, t.Spec = pod.Labels, pod.Annotations, pod.Spec
}

var serviceChanges = []func(r *rand.Rand, s *corev1.Service){
	func(r *rand.Rand, s *corev1.Service) {
		s.Spec.Type = pick(r, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName, "Other")
	},
	func(r *rand.Rand, s *corev1.Service) { s.Spec.ExternalName = pick(r, "example.com", "A B") },
	func(r *rand.Rand, s *corev1.Service) { s.Spec.ClusterIP = pick(r, "None", "10.96.0.7", "x") },
	func(r *rand.Rand, s *corev1.Service) { s.Spec.Selector = nil },
	func(r *rand.Rand, s *corev1.Service) { s.Spec.Ports = nil },
	func(r *rand.Rand, s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{
			Name: pick(r, "", "http", "tls"), Port: pick[int32](r, 80, 443, 0, 70000), NodePort: pick[int32](r, 0, 30080),
			Protocol: pick(r, "", corev1.ProtocolUDP, "X"), TargetPort: pick(r, intstr.IntOrString{}, intstr.FromString("http"), intstr.FromInt32(-1)),
		})
	},
	func(r *rand.Rand, s *corev1.Service) {
		s.Spec.SessionAffinity = pick(r, corev1.ServiceAffinityClientIP, "X")
	},
	func(r *rand.Rand, s *corev1.Service) {
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(pick[int32](r, 10, 0, 100000))}}
	},
	func(r *rand.Rand, s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = pick(r, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal, "X")
	},
	func(r *rand.Rand, s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = pick[int32](r, 0, 30998, -1)
	},
	func(r *rand.Rand, s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.LoadBalancerSourceRanges = pick(r, []string{"10.0.0.0/8", " 10.1.0.0/16"}, []string{"10.0.0.1"})
		s.Spec.LoadBalancerClass = pick(r, nil, ptr.To("example.com/lb"), ptr.To("A B"))
		s.Spec.AllocateLoadBalancerNodePorts = pick(r, nil, ptr.To(false))
	},
	func(r *rand.Rand, s *corev1.Service) { s.Name = pick(r, "web", "9web", "Web", "") },
	func(r *rand.Rand, s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true },
}

// compare runs the creation of obj, and the change of old to obj, through admission and through upstream's
// strategy.
func compare[T admission.Object](ctx context.Context, obj, old T, strategy strategies, internal func() runtime.Object) {
	GinkgoHelper()
	for _, before := range []admission.Object{nil, old} {
		is := obj.DeepCopyObject().(T)
		var was admission.Object
		if before != nil {
			was = before.DeepCopyObject().(admission.Object)
			is.SetName(was.GetName())
			for _, o := range []admission.Object{is, was} {
				o.SetUID("u")
				o.SetResourceVersion("1")
			}
		}
		want, wantErr := store(ctx, strategy, is, was, internal)
		got := is.DeepCopyObject().(T)
		_, errs := admission.PrepareObject(ctx, got, was, newLookup())
		Expect(errorSet(onlyUpstreams(errs))).To(Equal(explain(wantErr)), "%+v", is)
		if wantErr == nil && len(errs) == 0 {
			want.SetGeneration(got.GetGeneration())
			want.SetUID(got.GetUID())
			want.SetCreationTimestamp(got.GetCreationTimestamp())
			Expect(same(got, want)).To(BeTrue(), diff.Diff(want, got))
		}
	}
}
