package poddisruptionbudget

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	fakescale "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/disruption"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	dappsv1 "drayage.dev/apis/apps/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// Upstream's own controller is the oracle: both see the same budgets, pods and owners, and both must report the
// same status.

const worlds = 250

var _ = Describe("the status of a budget", func() {
	for _, seed := range []uint64{1, 2, uint64(time.Now().UnixNano())} {
		It(fmt.Sprintf("is upstream's, from seed %d", seed), func(ctx context.Context) {
			random := rand.New(rand.NewPCG(seed, seed))
			now := time.Now().Truncate(time.Second)
			all := make([]world, worlds)
			for i := range all {
				all[i] = newWorld(random, fmt.Sprintf("world-%d", i), now)
			}
			ours := map[string]policyv1.PodDisruptionBudgetStatus{}
			for _, w := range all {
				ours[w.budget.Namespace] = w.ours(ctx, now)
			}
			theirs := upstreams(ctx, all, now)
			allowing, failing := 0, 0
			for _, w := range all {
				Expect(ours[w.budget.Namespace]).To(Equal(theirs[w.budget.Namespace]), "%s", w)
				if ours[w.budget.Namespace].DisruptionsAllowed > 0 {
					allowing++
				}
				if meta.FindStatusCondition(ours[w.budget.Namespace].Conditions, policyv1.DisruptionAllowedCondition).Reason == policyv1.SyncFailedReason {
					failing++
				}
			}
			Expect(allowing).To(BeNumerically(">", worlds/20))
			Expect(failing).To(BeNumerically(">", worlds/50))
		})
	}
})

// allKinds is shared: making a scheme takes longer than a pass.
var allKinds = scheme.New()

// world is one budget in a namespace of its own, and what it may cover.
type world struct {
	budget      *policyv1.PodDisruptionBudget
	deployments []*appsv1.Deployment
	sets        []*appsv1.ReplicaSet
	pods        []*corev1.Pod
}

func newWorld(random *rand.Rand, namespace string, now time.Time) world {
	object := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name)}
	}
	owner := func(version, kind string, of *metav1.ObjectMeta) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: version, Kind: kind, Name: of.Name, UID: of.UID, Controller: ptr.To(true)}}
	}
	w := world{budget: &policyv1.PodDisruptionBudget{ObjectMeta: object("budget")}}
	w.budget.Generation = 1 + random.Int64N(3)
	share := func() *intstr.IntOrString {
		if random.IntN(2) == 0 {
			return ptr.To(intstr.FromInt32(random.Int32N(6)))
		}
		return ptr.To(intstr.FromString(fmt.Sprintf("%d%%", random.IntN(101))))
	}
	switch random.IntN(8) {
	case 0: // neither
	case 1, 2, 3:
		w.budget.Spec.MaxUnavailable = share()
	default:
		w.budget.Spec.MinAvailable = share()
	}
	switch random.IntN(8) {
	case 0: // nil covers nothing
	case 1:
		w.budget.Spec.Selector = &metav1.LabelSelector{}
	default:
		w.budget.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	}
	status := &w.budget.Status
	if random.IntN(3) > 0 {
		*status = policyv1.PodDisruptionBudgetStatus{
			ObservedGeneration: random.Int64N(w.budget.Generation + 1), DisruptionsAllowed: random.Int32N(3),
			CurrentHealthy: random.Int32N(3), DesiredHealthy: random.Int32N(3), ExpectedPods: random.Int32N(3),
		}
	}
	for i := range random.IntN(3) {
		d := &appsv1.Deployment{ObjectMeta: object(fmt.Sprintf("deployment-%d", i)), Spec: appsv1.DeploymentSpec{Replicas: ptr.To(random.Int32N(7))}}
		w.deployments = append(w.deployments, d)
	}
	for i := range random.IntN(4) {
		set := &appsv1.ReplicaSet{ObjectMeta: object(fmt.Sprintf("set-%d", i)), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(random.Int32N(7))}}
		switch random.IntN(6) {
		case 0, 1, 2:
			if len(w.deployments) > 0 {
				set.OwnerReferences = owner("apps/v1", "Deployment", &w.deployments[random.IntN(len(w.deployments))].ObjectMeta)
			}
		case 3: // a Deployment that is gone
			gone := object("gone")
			set.OwnerReferences = owner("apps/v1", "Deployment", &gone)
		}
		w.sets = append(w.sets, set)
	}
	for i := range random.IntN(9) {
		pod := &corev1.Pod{ObjectMeta: object(fmt.Sprintf("pod-%d", i)), Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if random.IntN(5) > 0 {
			pod.Labels = map[string]string{"app": "web"}
		}
		switch n := random.IntN(20); {
		case n == 0: // nobody's
		case n == 1:
			gone := object("gone")
			pod.OwnerReferences = owner("apps/v1", "ReplicaSet", &gone)
		case len(w.sets) > 0:
			pod.OwnerReferences = owner("apps/v1", "ReplicaSet", &w.sets[random.IntN(len(w.sets))].ObjectMeta)
		}
		if random.IntN(4) > 0 {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if random.IntN(6) == 0 {
			pod.DeletionTimestamp, pod.Finalizers = &metav1.Time{Time: now}, []string{"drayage.dev/node"}
		}
		if random.IntN(3) == 0 {
			if status.DisruptedPods == nil {
				status.DisruptedPods = map[string]metav1.Time{}
			}
			ages := []time.Duration{time.Second, time.Minute, deletionTimeout - time.Second, deletionTimeout + time.Second, time.Hour}
			status.DisruptedPods[pod.Name] = metav1.NewTime(now.Add(-ages[random.IntN(len(ages))]))
		}
		w.pods = append(w.pods, pod)
	}
	return w
}

// ours reconciles a world of Drayage's kinds.
func (w world) ours(ctx context.Context, now time.Time) policyv1.PodDisruptionBudgetStatus {
	GinkgoHelper()
	budget := upstream.FromPodDisruptionBudget(w.budget.DeepCopy())
	objects := []client.Object{budget}
	for _, d := range w.deployments {
		objects = append(objects, upstream.FromDeployment(d.DeepCopy()))
	}
	for _, set := range w.sets {
		set = set.DeepCopy()
		for i := range set.OwnerReferences {
			set.OwnerReferences[i].APIVersion = dappsv1.GroupVersion.String()
		}
		objects = append(objects, upstream.FromReplicaSet(set))
	}
	for _, pod := range w.pods {
		pod = pod.DeepCopy()
		for i := range pod.OwnerReferences {
			pod.OwnerReferences[i].APIVersion = dappsv1.GroupVersion.String()
		}
		objects = append(objects, upstream.FromPod(pod))
	}
	api := ctrlfake.NewClientBuilder().WithScheme(allKinds).WithObjects(objects...).WithStatusSubresource(&dpolicyv1.PodDisruptionBudget{}).
		WithInterceptorFuncs(interceptor.Funcs{
			SubResourceGet: func(_ context.Context, _ client.Client, _ string, object, into client.Object, _ ...client.SubResourceGetOption) error {
				for _, set := range w.sets {
					if set.Name == object.GetName() {
						*into.(*autoscalingv1.Scale) = *scaleOf(set)
						return nil
					}
				}
				return apierrors.NewNotFound(schema.GroupResource{}, object.GetName())
			},
		}).Build()
	r := &reconciler{client: api, recorder: &record.FakeRecorder{}, clock: testingclock.NewFakePassiveClock(now)}
	_, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(budget)})
	Expect(err).NotTo(HaveOccurred())
	Expect(api.Get(ctx, client.ObjectKeyFromObject(budget), budget)).To(Succeed())
	return compared(budget.Status)
}

func scaleOf(set *appsv1.ReplicaSet) *autoscalingv1.Scale {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Namespace: set.Namespace, Name: set.Name, UID: set.UID},
		Spec:       autoscalingv1.ScaleSpec{Replicas: *set.Spec.Replicas},
	}
}

// upstreams runs upstream's controller over all worlds.
func upstreams(ctx context.Context, all []world, now time.Time) map[string]policyv1.PodDisruptionBudgetStatus {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, logr.Discard()))
	defer cancel()
	var objects []runtime.Object
	sets := map[string]*appsv1.ReplicaSet{}
	for _, w := range all {
		objects = append(objects, w.budget.DeepCopy())
		for _, d := range w.deployments {
			objects = append(objects, d.DeepCopy())
		}
		for _, set := range w.sets {
			objects = append(objects, set.DeepCopy())
			sets[set.Namespace+"/"+set.Name] = set
		}
		for _, pod := range w.pods {
			objects = append(objects, pod.DeepCopy())
		}
	}
	api := fake.NewSimpleClientset(objects...)
	api.Resources = []*metav1.APIResourceList{{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{
		{Name: "replicasets/scale", Group: "autoscaling", Version: "v1", Kind: "Scale"},
	}}}
	scales := &fakescale.FakeScaleClient{}
	scales.AddReactor("get", "replicasets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		get := action.(clienttesting.GetAction)
		if set := sets[get.GetNamespace()+"/"+get.GetName()]; set != nil {
			return true, scaleOf(set), nil
		}
		return true, nil, apierrors.NewNotFound(schema.GroupResource{}, get.GetName())
	})
	// Budgets are seen once: what upstream's controller writes must not come back to it, for where several pods
	// have no controller it names another one each time, and writes anew.
	seen := watch.NewFakeWithChanSize(2, false)
	api.PrependWatchReactor("poddisruptionbudgets", clienttesting.DefaultWatchReactor(seen, nil))
	factory := informers.NewSharedInformerFactory(api, 0)
	dc := disruption.NewDisruptionControllerInternal(ctx,
		factory.Core().V1().Pods(), factory.Policy().V1().PodDisruptionBudgets(), factory.Core().V1().ReplicationControllers(),
		factory.Apps().V1().ReplicaSets(), factory.Apps().V1().Deployments(), factory.Apps().V1().StatefulSets(),
		api, testrestmapper.TestOnlyStaticRESTMapper(clientgoscheme.Scheme), scales, api.Discovery(),
		testingclock.NewFakeClock(now), time.Hour)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	done := make(chan struct{})
	go func() { defer close(done); dc.Run(ctx) }()

	// One worker takes the budgets in turn: this one's turn comes last.
	sentinel := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "sentinel", Name: "budget", Generation: 1}}
	for i := range 2 {
		sentinel.Name = fmt.Sprintf("budget-%d", i)
		_, err := api.PolicyV1().PodDisruptionBudgets("sentinel").Create(ctx, sentinel, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())
		seen.Add(sentinel.DeepCopy())
		Eventually(func() int64 {
			b, err := api.PolicyV1().PodDisruptionBudgets("sentinel").Get(ctx, sentinel.Name, metav1.GetOptions{})
			Expect(err).NotTo(HaveOccurred())
			return b.Status.ObservedGeneration
		}).Should(Equal(int64(1)))
	}
	got := map[string]policyv1.PodDisruptionBudgetStatus{}
	for _, w := range all {
		b, err := api.PolicyV1().PodDisruptionBudgets(w.budget.Namespace).Get(ctx, w.budget.Name, metav1.GetOptions{})
		Expect(err).NotTo(HaveOccurred())
		got[w.budget.Namespace] = compared(b.Status)
	}
	cancel()
	Eventually(done).Should(BeClosed())
	return got
}

// compared leaves out times, Drayage's own conditions, and of an error which of several pods it names and
// which generation it speaks of.
func compared(status policyv1.PodDisruptionBudgetStatus) policyv1.PodDisruptionBudgetStatus {
	var conditions []metav1.Condition
	for _, c := range status.Conditions {
		if c.Type == policyv1.DisruptionAllowedCondition {
			c.LastTransitionTime = metav1.Time{}
			if c.Reason == policyv1.SyncFailedReason {
				// Upstream leaves the generation of a budget that it could not compute as it was.
				c.Message, c.ObservedGeneration, status.ObservedGeneration = "", 0, 0
			}
			conditions = append(conditions, c)
		}
	}
	status.Conditions = conditions
	if len(status.DisruptedPods) == 0 {
		status.DisruptedPods = nil
	}
	for name, at := range status.DisruptedPods {
		status.DisruptedPods[name] = metav1.NewTime(at.UTC())
	}
	return status
}

// String shows a world in a failure.
func (w world) String() string {
	text := fmt.Sprintf("%s: %+v, was %+v", w.budget.Namespace, w.budget.Spec, w.budget.Status)
	for _, pod := range w.pods {
		text += fmt.Sprintf("\n%s %v of %v: ready %t, deleted %t", pod.Name, pod.Labels, pod.OwnerReferences, len(pod.Status.Conditions) > 0, pod.DeletionTimestamp != nil)
	}
	return text
}
