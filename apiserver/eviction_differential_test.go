package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unsafe"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes/fake"
	typedpolicyv1 "k8s.io/client-go/kubernetes/typed/policy/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1conversion "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/apis/policy"
	podstorage "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// Upstream's own subresource is the oracle: both get one request over the same pod and budgets, and both must
// answer alike and leave the same behind.

var _ = Describe("An eviction", func() {
	for _, seed := range []uint64{1, uint64(time.Now().UnixNano())} {
		It(fmt.Sprintf("is upstream's, from seed %d", seed), func(ctx context.Context) {
			random := rand.New(rand.NewPCG(seed, seed))
			ctx = genericapirequest.WithNamespace(ctx, "default")
			evicted, refused := 0, 0
			for i := range 150 {
				w := newEvictionWorld(random)
				ours, theirs := w.ours(ctx), w.upstream(ctx)
				Expect(ours).To(Equal(theirs), "world %d: %+v", i, w)
				if ours.deleted {
					evicted++
				}
				if ours.code == 429 {
					refused++
				}
			}
			Expect(min(evicted, refused)).To(BeNumerically(">", 0))
		})
	}
})

// allKinds is shared: making a scheme takes longer than an eviction.
var allKinds = scheme.New()

type evictionWorld struct {
	pod     *corev1.Pod
	budgets []*policyv1.PodDisruptionBudget
	options *metav1.DeleteOptions
}

// outcome is what a request leaves behind.
type outcome struct {
	code      int32
	message   string
	causes    []string
	deleted   bool
	disrupted bool
	allowed   map[string]int32
	entries   map[string][]string
	allowing  map[string]metav1.ConditionStatus
}

func newEvictionWorld(random *rand.Rand) evictionWorld {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid", ResourceVersion: "7", Labels: map[string]string{"app": "web"}, Finalizers: []string{"example.com/keep"}},
		Status: corev1.PodStatus{Phase: []corev1.PodPhase{
			corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodRunning, corev1.PodRunning, corev1.PodFailed, corev1.PodSucceeded,
		}[random.IntN(7)]},
	}
	if random.IntN(3) > 0 {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
	}
	if random.IntN(8) == 0 {
		pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	}
	w := evictionWorld{pod: pod}
	for i := range []int{0, 1, 1, 1, 1, 1, 2}[random.IntN(7)] {
		b := &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "budget-" + strconv.Itoa(i), ResourceVersion: "5", Generation: 2},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
			Status: policyv1.PodDisruptionBudgetStatus{
				ObservedGeneration: 2, DisruptionsAllowed: random.Int32N(4) - 1, CurrentHealthy: random.Int32N(4), DesiredHealthy: random.Int32N(4),
			},
		}
		switch random.IntN(8) {
		case 0:
			b.Status.ObservedGeneration = 1
		case 1:
			b.Spec.Selector.MatchLabels["app"] = "other"
		case 2:
			b.Spec.UnhealthyPodEvictionPolicy = ptr.To(policyv1.AlwaysAllow)
		case 3:
			b.Spec.UnhealthyPodEvictionPolicy = ptr.To(policyv1.IfHealthyBudget)
		case 4:
			b.Spec.Selector = []*metav1.LabelSelector{nil, {}}[random.IntN(2)]
		case 5:
			b.Status.Conditions = []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
				Reason: []string{policyv1.SyncFailedReason, policyv1.InsufficientPodsReason}[random.IntN(2)], Message: "why"}}
		case 6:
			b.Status.DisruptedPods = map[string]metav1.Time{"earlier": metav1.Now()}
		}
		w.budgets = append(w.budgets, b)
	}
	if random.IntN(2) == 0 {
		return w
	}
	w.options = &metav1.DeleteOptions{}
	if random.IntN(3) == 0 {
		w.options.GracePeriodSeconds = ptr.To(1 + random.Int64N(20))
	}
	if random.IntN(4) == 0 {
		w.options.DryRun = []string{metav1.DryRunAll}
	}
	if len(w.options.DryRun) > 0 {
		return w // whose preconditions the fake API does not look at
	}
	switch random.IntN(5) {
	case 0:
		w.options.Preconditions = &metav1.Preconditions{ResourceVersion: ptr.To("7")}
	case 1:
		w.options.Preconditions = &metav1.Preconditions{ResourceVersion: ptr.To("6")}
	case 2:
		w.options.Preconditions = &metav1.Preconditions{UID: ptr.To(types.UID("uid"))}
	}
	return w
}

func (w evictionWorld) request() *policy.Eviction {
	return &policy.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, DeleteOptions: w.options.DeepCopy()}
}

func (w evictionWorld) ours(ctx context.Context) outcome {
	GinkgoHelper()
	objects := []client.Object{upstream.FromPod(w.pod.DeepCopy())}
	for _, b := range w.budgets {
		objects = append(objects, upstream.FromPodDisruptionBudget(b.DeepCopy()))
	}
	api := ctrlfake.NewClientBuilder().WithScheme(allKinds).WithStatusSubresource(&dcorev1.Pod{}, &dpolicyv1.PodDisruptionBudget{}).WithObjects(objects...).Build()
	store := evictionStore{api}
	handler := &evictionREST{store: store, surge: surge{store, clock.RealClock{}}}
	got := answer(handler.Create(ctx, "web", w.request(), nil, &metav1.CreateOptions{}))
	pod := &dcorev1.Pod{}
	Expect(api.Get(ctx, client.ObjectKeyFromObject(w.pod), pod)).To(Succeed())
	got.deleted = w.pod.DeletionTimestamp == nil && pod.DeletionTimestamp != nil
	_, mark := podutil.GetPodCondition(&pod.Status.PodStatus, corev1.DisruptionTarget)
	got.disrupted = mark != nil && mark.Status == corev1.ConditionTrue
	for _, b := range w.budgets {
		live := &dpolicyv1.PodDisruptionBudget{}
		Expect(api.Get(ctx, client.ObjectKeyFromObject(b), live)).To(Succeed())
		got.add(upstream.PodDisruptionBudget(live))
	}
	return got
}

func (w evictionWorld) upstream(ctx context.Context) outcome {
	GinkgoHelper()
	api := fake.NewSimpleClientset()
	for _, b := range w.budgets {
		Expect(api.Tracker().Add(b.DeepCopy())).To(Succeed())
	}
	internal := &core.Pod{}
	Expect(corev1conversion.Convert_v1_Pod_To_core_Pod(w.pod.DeepCopy(), internal, nil)).To(Succeed())
	store := &oneStore{pod: internal}
	handler := &podstorage.EvictionREST{}
	set(handler, "store", rest.StandardStorage(store))
	set(handler, "podDisruptionBudgetClient", typedpolicyv1.PodDisruptionBudgetsGetter(api.PolicyV1()))
	got := answer(handler.Create(ctx, "web", w.request(), nil, &metav1.CreateOptions{}))
	got.deleted = w.pod.DeletionTimestamp == nil && store.deleted
	got.disrupted = slices.ContainsFunc(store.pod.Status.Conditions, func(c core.PodCondition) bool {
		return c.Type == core.DisruptionTarget && c.Status == core.ConditionTrue
	})
	for _, b := range w.budgets {
		live, err := api.PolicyV1().PodDisruptionBudgets("default").Get(ctx, b.Name, metav1.GetOptions{})
		Expect(err).NotTo(HaveOccurred())
		got.add(live)
	}
	return got
}

// answer keeps what a client acts upon. Conflicts and forbidden budgets name groups, which differ.
func answer(object runtime.Object, err error) outcome {
	got := outcome{allowed: map[string]int32{}, entries: map[string][]string{}, allowing: map[string]metav1.ConditionStatus{}}
	status, _ := object.(*metav1.Status)
	var refused apierrors.APIStatus
	if errors.As(err, &refused) {
		status = ptr.To(refused.Status())
	} else if err != nil {
		got.message = err.Error()
		return got
	}
	got.code = status.Code
	if status.Reason != metav1.StatusReasonConflict && status.Reason != metav1.StatusReasonForbidden {
		got.message = status.Message
	}
	if status.Details != nil && status.Reason == metav1.StatusReasonTooManyRequests {
		for _, cause := range status.Details.Causes {
			got.causes = append(got.causes, string(cause.Type)+": "+cause.Message)
		}
		got.causes = append(got.causes, fmt.Sprint(status.Details.RetryAfterSeconds))
	}
	return got
}

func (o *outcome) add(b *policyv1.PodDisruptionBudget) {
	o.allowed[b.Name] = b.Status.DisruptionsAllowed
	o.entries[b.Name] = slices.Sorted(maps.Keys(b.Status.DisruptedPods))
	for _, condition := range b.Status.Conditions {
		o.allowing[b.Name] = condition.Status
	}
}

// oneStore is as much of a storage of pods as upstream's subresource asks for.
type oneStore struct {
	rest.StandardStorage
	pod     *core.Pod
	deleted bool
}

func (s *oneStore) Get(context.Context, string, *metav1.GetOptions) (runtime.Object, error) {
	return s.pod.DeepCopy(), nil
}

func (s *oneStore) Update(ctx context.Context, _ string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc, _ rest.ValidateObjectUpdateFunc, _ bool, _ *metav1.UpdateOptions) (runtime.Object, bool, error) {
	object, err := info.UpdatedObject(ctx, s.pod.DeepCopy())
	if err != nil {
		return nil, false, err
	}
	s.pod = object.(*core.Pod)
	s.pod.ResourceVersion += "1"
	return s.pod.DeepCopy(), false, nil
}

func (s *oneStore) Delete(_ context.Context, name string, _ rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if p := options.Preconditions; p != nil && p.ResourceVersion != nil && *p.ResourceVersion != s.pod.ResourceVersion {
		return nil, false, apierrors.NewConflict(core.Resource("pods"), name, fmt.Errorf("another version"))
	}
	s.deleted = len(options.DryRun) == 0
	return s.pod, false, nil
}

// set sets a field that upstream does not export.
func set[T any](of any, field string, value T) {
	f := reflect.ValueOf(of).Elem().FieldByName(field)
	*(*T)(unsafe.Pointer(f.UnsafeAddr())) = value
}
