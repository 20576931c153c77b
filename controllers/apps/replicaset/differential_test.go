package replicaset

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	upstreamreplicaset "k8s.io/kubernetes/pkg/controller/replicaset"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controllers/apps/claim"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// Upstream's own controller is the oracle: both see one state, both take one pass, and both must create as
// many pods, delete the same ones, and report the same status.

const worlds = 150

var _ = Describe("a pass over a ReplicaSet", func() {
	for _, seed := range []uint64{1, 2, 3, uint64(time.Now().UnixNano())} {
		It(fmt.Sprintf("is upstream's, from seed %d", seed), func(ctx context.Context) {
			random := rand.New(rand.NewPCG(seed, seed))
			for i := range worlds {
				w := newWorld(random)
				Expect(w.passOurs(ctx)).To(Equal(w.passUpstream(ctx)), "world %d: %s", i, w)
			}
		})
	}
})

// world is two ReplicaSets of one owner, of which the first is looked at, and their pods.
type world struct {
	set, sibling *appsv1.ReplicaSet
	pods         []*corev1.Pod
	// refuse makes the API refuse to create pods.
	refuse bool
}

// result is what a pass leaves behind.
type result struct {
	created int
	deleted map[string]bool
	status  appsv1.ReplicaSetStatus
	failed  bool
}

func newWorld(random *rand.Rand) world {
	newSet := func(name string) *appsv1.ReplicaSet {
		labels := map[string]string{"app": "web", "hash": name}
		return &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: name, UID: types.UID(name), Generation: 3, Labels: labels,
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "web", Controller: ptr.To(true)}},
			},
			Spec: appsv1.ReplicaSetSpec{
				Replicas: ptr.To(random.Int32N(9)), MinReadySeconds: random.Int32N(2) * 600,
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web", "hash": name, "full": "yes"}}},
			},
			Status: appsv1.ReplicaSetStatus{Replicas: random.Int32N(5), ObservedGeneration: 1 + random.Int64N(3)},
		}
	}
	w := world{set: newSet("new"), sibling: newSet("old"), refuse: random.IntN(6) == 0}
	if random.IntN(4) == 0 {
		w.set.Status.Conditions = []appsv1.ReplicaSetCondition{{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "earlier",
		}}
	}
	for i := range random.IntN(16) {
		owner := w.set
		if random.IntN(4) == 0 {
			owner = w.sibling
		}
		w.pods = append(w.pods, newPod(random, owner, i))
	}
	return w
}

func newPod(random *rand.Rand, owner *appsv1.ReplicaSet, i int) *corev1.Pod {
	now := time.Now().Truncate(time.Second)
	// Far from the powers of two at which upstream's logarithmic ranks change.
	age := func() time.Duration {
		return time.Duration(1.5 * float64(time.Second) * float64(int64(1)<<(8+random.IntN(6))))
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "pod-" + strconv.Itoa(i), UID: types.UID(fmt.Sprintf("%x", random.Uint64())), Labels: map[string]string{},
			// No two alike: upstream leaves the order of such a pair to chance.
			CreationTimestamp: metav1.NewTime(now.Add(-age() - time.Duration(i)*time.Second)),
			OwnerReferences:   []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Status: corev1.PodStatus{Phase: []corev1.PodPhase{
			corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodRunning, corev1.PodFailed, corev1.PodSucceeded,
		}[random.IntN(6)]},
	}
	for key, value := range owner.Spec.Selector.MatchLabels {
		pod.Labels[key] = value
	}
	if random.IntN(3) > 0 {
		pod.Labels["full"] = "yes"
	}
	if random.IntN(5) > 0 {
		pod.Spec.NodeName = "node-" + strconv.Itoa(random.IntN(4))
	}
	if pod.Status.Phase == corev1.PodRunning && random.IntN(4) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-age()))}}
	}
	if random.IntN(5) == 0 {
		pod.Annotations = map[string]string{corev1.PodDeletionCost: strconv.Itoa(random.IntN(5) - 2)}
	}
	if random.IntN(3) == 0 {
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: random.Int32N(3)}}
	}
	if random.IntN(6) == 0 {
		pod.DeletionTimestamp, pod.Finalizers = &metav1.Time{Time: now}, []string{dcorev1.NodeFinalizer}
	}
	return pod
}

func (w world) passUpstream(ctx context.Context) result {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, logr.Discard()))
	defer cancel()
	api := fake.NewSimpleClientset(w.set.DeepCopy(), w.sibling.DeepCopy())
	got := result{deleted: map[string]bool{}}
	var created atomic.Int64
	api.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if w.refuse {
			return true, nil, errRefused
		}
		created.Add(1)
		return true, action.(clienttesting.CreateAction).GetObject(), nil
	})
	factory := informers.NewSharedInformerFactory(api, 0)
	sets, pods := factory.Apps().V1().ReplicaSets(), factory.Core().V1().Pods()
	controller := upstreamreplicaset.NewReplicaSetController(ctx, sets, pods, api, burst)
	for _, set := range []*appsv1.ReplicaSet{w.set, w.sibling} {
		Expect(sets.Informer().GetIndexer().Add(set.DeepCopy())).To(Succeed())
	}
	for _, pod := range w.pods {
		pod = pod.DeepCopy()
		Expect(pods.Informer().GetIndexer().Add(pod)).To(Succeed())
		Expect(api.Tracker().Add(pod)).To(Succeed())
	}
	field := reflect.ValueOf(controller).Elem().FieldByName("syncHandler")
	sync := *(*func(context.Context, string) error)(unsafe.Pointer(field.UnsafeAddr()))
	got.failed = sync(ctx, "default/new") != nil
	for _, action := range api.Actions() {
		if deletion, ok := action.(clienttesting.DeleteAction); ok && action.GetResource().Resource == "pods" {
			got.deleted[deletion.GetName()] = true
		}
	}
	got.created = int(created.Load())
	set, err := api.AppsV1().ReplicaSets("default").Get(ctx, "new", metav1.GetOptions{})
	Expect(err).NotTo(HaveOccurred())
	got.status = withoutTimes(set.Status)
	return got
}

func (w world) passOurs(ctx context.Context) result {
	GinkgoHelper()
	got := result{deleted: map[string]bool{}}
	var created atomic.Int64
	objects := []client.Object{upstream.FromReplicaSet(w.set.DeepCopy()), upstream.FromReplicaSet(w.sibling.DeepCopy())}
	for _, pod := range w.pods {
		objects = append(objects, upstream.FromPod(pod.DeepCopy()))
	}
	deletions := make(chan string, len(w.pods))
	builder := ctrlfake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(objects...).
		WithStatusSubresource(&dappsv1.ReplicaSet{}).
		WithInterceptorFuncs(interceptor.Funcs{
			Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
				if w.refuse {
					return errRefused
				}
				created.Add(1)
				return nil
			},
			Delete: func(_ context.Context, _ client.WithWatch, object client.Object, _ ...client.DeleteOption) error {
				deletions <- object.GetName()
				return nil
			},
		})
	for _, indexed := range []client.Object{&dcorev1.Pod{}, &dappsv1.ReplicaSet{}} {
		Expect(claim.Index(ctx, indexer{builder}, indexed)).To(Succeed())
	}
	api := builder.Build()
	r := &reconciler{client: api, live: api, recorder: &record.FakeRecorder{}, clock: clock.RealClock{},
		expectations: controller.NewUIDTrackingControllerExpectations(controller.NewControllerExpectations())}
	_, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(w.set)})
	got.failed = err != nil
	close(deletions)
	for name := range deletions {
		got.deleted[name] = true
	}
	got.created = int(created.Load())
	var set dappsv1.ReplicaSet
	Expect(api.Get(ctx, client.ObjectKeyFromObject(w.set), &set)).To(Succeed())
	got.status = withoutTimes(set.Status.ReplicaSetStatus)
	return got
}

var errRefused = errors.New("refused")

// indexer lets a builder of a fake client stand where a cache's indexer does.
type indexer struct{ builder *ctrlfake.ClientBuilder }

func (i indexer) IndexField(_ context.Context, object client.Object, field string, extract client.IndexerFunc) error {
	i.builder.WithIndex(object, field, extract)
	return nil
}

// withoutTimes takes from a status what upstream's does not have, or has at another time.
func withoutTimes(status appsv1.ReplicaSetStatus) appsv1.ReplicaSetStatus {
	for _, own := range []appsv1.ReplicaSetConditionType{dappsv1.ReplicaSetReady, dappsv1.ReplicaSetReconciling} {
		upstreamreplicaset.RemoveCondition(&status, own)
	}
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	if len(status.Conditions) == 0 {
		status.Conditions = nil
	}
	return status
}

// String shows a world in a failure.
func (w world) String() string {
	text := fmt.Sprintf("%d replicas", *w.set.Spec.Replicas)
	for _, pod := range w.pods {
		text += fmt.Sprintf("\n%s of %s on %q: %s, deleted %t, ready %t, cost %q", pod.Name, pod.OwnerReferences[0].Name, pod.Spec.NodeName,
			pod.Status.Phase, pod.DeletionTimestamp != nil, len(pod.Status.Conditions) > 0, pod.Annotations[corev1.PodDeletionCost])
	}
	return text
}
