package drain_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/apiserver"
	"drayage.dev/controlplane"
	"drayage.dev/test/commandline"
	"drayage.dev/test/env"
)

var _ = Describe("nodes on the command line", Ordered, func() {
	var (
		admin client.Client
		// owner is the ReplicaSet of every pod: without one the garbage collector would take them.
		owner *dappsv1.ReplicaSet
	)

	BeforeAll(func(ctx context.Context) {
		e, err := env.Start(context.WithoutCancel(ctx), env.WithAPIGroups(controlplane.APIGroup{
			New: func(ctx context.Context, deps controlplane.Deps) (*genericapiserver.APIGroupInfo, error) {
				return apiserver.NewAPIGroup(ctx, apiserver.Config{
					Client: deps.Loopback, Authorizer: deps.Authorizer,
					CAFile: deps.CAFile, ClientCertFile: deps.ClientCertFile, ClientKeyFile: deps.ClientKeyFile,
				})
			},
		}))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
		admin, err = e.Client()
		Expect(err).NotTo(HaveOccurred())
		commandline.Use(e)
		owner = &dappsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		owner.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"set": "web"}}
		owner.Spec.Template.Spec.Containers = []corev1.Container{{Name: "app", Image: "app"}}
		Expect(admin.Create(ctx, owner)).To(Succeed())
	})
	BeforeEach(func(ctx context.Context) {
		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"rack": "7"}}}
		Expect(admin.Create(ctx, node)).To(Succeed())
		DeferCleanup(func(ctx context.Context) {
			Expect(admin.Delete(ctx, node)).To(Succeed())
			Expect(admin.DeleteAllOf(ctx, &dcorev1.Pod{}, client.InNamespace("default"))).To(Succeed())
		})
	})

	node := func(ctx context.Context) *dcorev1.Node {
		GinkgoHelper()
		n := &dcorev1.Node{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: "n1"}, n)).To(Succeed())
		return n
	}
	run := func(ctx context.Context, name string, change func(*dcorev1.Pod)) *dcorev1.Pod {
		GinkgoHelper()
		pod := &dcorev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}, OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(owner, dappsv1.GroupVersion.WithKind("ReplicaSet")),
			}},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "app", Image: "app"}}},
		}
		change(pod)
		Expect(admin.Create(ctx, pod)).To(Succeed())
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		Expect(admin.Status().Update(ctx, pod)).To(Succeed())
		return pod
	}
	gone := func(ctx context.Context, pod *dcorev1.Pod) bool {
		return apierrors.IsNotFound(admin.Get(ctx, client.ObjectKeyFromObject(pod), &dcorev1.Pod{}))
	}
	asIs := func(*dcorev1.Pod) {}

	It("are cordoned and uncordoned", func(ctx context.Context) {
		text, code := commandline.Run("cordon", "n1", "--dry-run=client")
		Expect(text).To(Equal("node/n1 cordoned (dry run)\n"))
		Expect(code).To(BeZero())
		text, _ = commandline.Run("cordon", "n1", "--dry-run=server")
		Expect(text).To(Equal("node/n1 cordoned (server dry run)\n"))
		Expect(node(ctx).Spec.Unschedulable).To(BeFalse())
		text, _ = commandline.Run("cordon", "n1")
		Expect(text).To(Equal("node/n1 cordoned\n"))
		Expect(node(ctx).Spec.Unschedulable).To(BeTrue())
		text, _ = commandline.Run("cordon", "-l", "rack=7")
		Expect(text).To(Equal("node/n1 already cordoned\n"))
		text, _ = commandline.Run("uncordon", "node/n1")
		Expect(text).To(Equal("node/n1 uncordoned\n"))
		Expect(node(ctx).Spec.Unschedulable).To(BeFalse())
		text, code = commandline.Run("cordon", "nobody")
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring(`"nobody" not found`))
	})

	It("are tainted", func(ctx context.Context) {
		text, code := commandline.Run("taint", "nodes", "n1", "dedicated=gpu:NoSchedule", "soon:PreferNoSchedule")
		Expect(text).To(Equal("node/n1 tainted\n"))
		Expect(code).To(BeZero())
		Expect(node(ctx).Spec.Taints).To(ConsistOf(
			corev1.Taint{Key: "dedicated", Value: "gpu", Effect: corev1.TaintEffectNoSchedule}, corev1.Taint{Key: "soon", Effect: corev1.TaintEffectPreferNoSchedule}))
		text, code = commandline.Run("taint", "dno", "n1", "dedicated=cpu:NoSchedule")
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring("--overwrite is false"))
		text, _ = commandline.Run("taint", "nodes.core.drayage.dev", "n1", "dedicated=cpu:NoSchedule", "--overwrite", "-o", "name")
		Expect(text).To(Equal("node/n1\n"))
		text, _ = commandline.Run("taint", "node", "--all", "dedicated-", "soon-", "-o", "json")
		Expect(text).To(ContainSubstring(`"name": "n1"`))
		Expect(node(ctx).Spec.Taints).To(BeEmpty())
	})

	It("are drained of what may go", func(ctx context.Context) {
		web := run(ctx, "web", asIs)
		text, code := commandline.Run("drain", "n1", "--dry-run=client")
		Expect(text).To(ContainSubstring("evicting pod default/web (dry run)"))
		Expect(code).To(BeZero())
		text, _ = commandline.Run("drain", "n1", "--dry-run=server")
		Expect(text).To(ContainSubstring("evicting pod default/web (server dry run)"))
		Expect(gone(ctx, web)).To(BeFalse())
		Expect(node(ctx).Spec.Unschedulable).To(BeFalse())

		text, code = commandline.Run("drain", "n1", "--pod-selector=app=other")
		Expect(text).To(ContainSubstring("node/n1 drained"))
		Expect(code).To(BeZero())
		Expect(gone(ctx, web)).To(BeFalse())
		text, code = commandline.Run("drain", "n1")
		Expect(text).To(And(ContainSubstring("evicting pod default/web\n"), ContainSubstring("pod/web evicted\n"), HaveSuffix("node/n1 drained\n")))
		Expect(code).To(BeZero())
		Expect(gone(ctx, web)).To(BeTrue())
		Expect(node(ctx).Spec.Unschedulable).To(BeTrue())
	})

	It("are not drained of what would be lost without being asked to", func(ctx context.Context) {
		scratch := run(ctx, "scratch", func(p *dcorev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		})
		single := run(ctx, "single", func(p *dcorev1.Pod) { p.OwnerReferences = nil })
		text, code := commandline.Run("drain", "n1")
		Expect(code).To(Equal(1))
		Expect(text).To(And(
			ContainSubstring("cannot delete Pods with local storage (use --delete-emptydir-data to override): default/scratch"),
			ContainSubstring("cannot delete Pods that declare no controller (use --force to override): default/single")))
		text, code = commandline.Run("drain", "n1", "--force", "--delete-emptydir-data", "--disable-eviction", "--grace-period=1")
		Expect(code).To(BeZero(), text)
		Expect(gone(ctx, scratch) && gone(ctx, single)).To(BeTrue())
	})

	It("say which budget they wait for", func(ctx context.Context) {
		web := run(ctx, "web", asIs)
		budget := &dpolicyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "keep-web"}}
		budget.Spec = policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: web.Labels}}
		Expect(admin.Create(ctx, budget)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(admin.Delete(ctx, budget)).To(Succeed()) })
		budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1}
		Expect(admin.Status().Update(ctx, budget)).To(Succeed())
		text, code := commandline.Run("drain", "n1", "--timeout=8s")
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring(`error when evicting pods/"web" -n "default" (will retry after 5s): Cannot evict pod as it would violate the pod's disruption budget. ` +
			"The disruption budget keep-web needs 1 healthy pods and has 1 currently"))
		Expect(text).To(ContainSubstring("global timeout reached: 8s"))
		Expect(gone(ctx, web)).To(BeFalse())
	})
})
