package deployment

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
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
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	appsdefaults "k8s.io/kubernetes/pkg/apis/apps/v1"
	upstreamdeployment "k8s.io/kubernetes/pkg/controller/deployment"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controllers/apps/claim"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// Upstream's own controller is the oracle: both see one state, both take one step, and both must leave the
// same behind.

// rollouts and steps are how many Deployments each seed makes, and how often each is looked at while its
// pods come and go and its user changes it.
const (
	rollouts = 40
	steps    = 12
)

var _ = Describe("a step of a Deployment", func() {
	seeds := []uint64{1, 2, uint64(time.Now().UnixNano())}
	for _, seed := range seeds {
		It(fmt.Sprintf("is upstream's, from seed %d", seed), func(ctx context.Context) {
			random := rand.New(rand.NewPCG(seed, seed))
			for rollout := range rollouts {
				world := newWorld(random)
				for step := range steps {
					where := fmt.Sprintf("rollout %d, step %d", rollout, step)
					theirs, ours := world.stepUpstream(ctx), world.stepOurs(ctx)
					compare(where, world, theirs, ours)
					world = theirs
					world.live(random)
				}
			}
		})
	}
})

// world is everything that a step can see.
type world struct {
	deployment *appsv1.Deployment
	sets       []*appsv1.ReplicaSet
	pods       []*corev1.Pod
}

var epoch = time.Now().Truncate(time.Second).Add(-24 * time.Hour)

// newWorld makes a Deployment in the middle of its life.
func newWorld(random *rand.Rand) world {
	labels := map[string]string{"app": "web"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "deployment", Generation: 1 + random.Int64N(5)},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(random.Int32N(14)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			MinReadySeconds: random.Int32N(2), Template: template(random.IntN(5)),
			RevisionHistoryLimit: ptr.To(random.Int32N(3)),
		},
	}
	d.Spec.Template.Labels = labels
	changeStrategy(random, d)
	d.Spec.Paused = random.IntN(10) == 0
	if random.IntN(4) == 0 {
		d.Spec.ProgressDeadlineSeconds = ptr.To[int32](1 << 30)
	}
	appsdefaults.SetObjectDefaults_Deployment(d)
	w := world{deployment: d}
	for image := range random.IntN(5) {
		w.sets = append(w.sets, newSet(random, d, image))
	}
	randomStatus(random, &w)
	return w
}

func template(image int) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "web", Image: "web:" + strconv.Itoa(image)}},
	}}
}

func changeStrategy(random *rand.Rand, d *appsv1.Deployment) {
	if random.IntN(5) == 0 {
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		return
	}
	amount := func() *intstr.IntOrString {
		if random.IntN(2) == 0 {
			return ptr.To(intstr.FromInt32(random.Int32N(4)))
		}
		return ptr.To(intstr.FromString(fmt.Sprintf("%d%%", random.IntN(101))))
	}
	d.Spec.Strategy = appsv1.DeploymentStrategy{
		Type:          appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: amount(), MaxUnavailable: amount()},
	}
}

func newSet(random *rand.Rand, d *appsv1.Deployment, image int) *appsv1.ReplicaSet {
	hash := "hash" + strconv.Itoa(image)
	labels := map[string]string{"app": "web", appsv1.DefaultDeploymentUniqueLabelKey: hash}
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: "web-" + hash, UID: types.UID("set-" + hash), Labels: labels, Generation: 1 + random.Int64N(3),
			OwnerReferences:   []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
			CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(random.IntN(6)) * time.Minute)),
			Annotations:       map[string]string{dappsv1.RevisionAnnotation: strconv.Itoa(1 + random.IntN(6))},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To(random.Int32N(*d.Spec.Replicas + 4)), MinReadySeconds: d.Spec.MinReadySeconds,
			Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(image),
		},
	}
	set.Spec.Template.Labels = labels
	if random.IntN(3) == 0 {
		*set.Spec.Replicas = 0
	}
	desired := *d.Spec.Replicas
	if random.IntN(5) == 0 {
		desired = random.Int32N(14)
	}
	if random.IntN(8) > 0 {
		deploymentutil.SetReplicasAnnotations(set, desired, desired+random.Int32N(4))
	}
	appsdefaults.SetObjectDefaults_ReplicaSet(set)
	return set
}

// randomStatus makes statuses that a ReplicaSet controller could have left, among them outdated ones.
func randomStatus(random *rand.Rand, w *world) {
	for _, set := range w.sets {
		status := &set.Status
		status.Replicas = *set.Spec.Replicas
		if random.IntN(3) == 0 {
			status.Replicas = random.Int32N(*set.Spec.Replicas + 3)
		}
		status.ReadyReplicas = random.Int32N(status.Replicas + 1)
		if random.IntN(2) == 0 {
			status.ReadyReplicas = status.Replicas
		}
		status.AvailableReplicas = status.ReadyReplicas - random.Int32N(status.ReadyReplicas+1)*int32(random.IntN(2))
		status.TerminatingReplicas = ptr.To(random.Int32N(2))
		status.ObservedGeneration = set.Generation - int64(random.IntN(2))
		status.Conditions = nil
		if random.IntN(8) == 0 {
			status.Conditions = []appsv1.ReplicaSetCondition{{
				Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: set.Name,
			}}
		}
	}
	w.pods = nil
	for _, set := range w.sets {
		if random.IntN(6) == 0 {
			phase := []corev1.PodPhase{corev1.PodRunning, corev1.PodFailed, corev1.PodSucceeded, corev1.PodPending}[random.IntN(4)]
			w.pods = append(w.pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: set.Namespace, Name: "pod-of-" + set.Name, Labels: set.Spec.Selector.MatchLabels,
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, dappsv1.GroupVersion.WithKind("ReplicaSet"))},
				},
				Status: corev1.PodStatus{Phase: phase},
			})
		}
	}
}

// live lets some time pass: pods follow their ReplicaSets, or do not, and the user changes something now
// and then.
func (w *world) live(random *rand.Rand) {
	d := w.deployment
	for _, set := range w.sets {
		set.Generation++
	}
	if random.IntN(3) > 0 {
		for _, set := range w.sets {
			n := *set.Spec.Replicas
			set.Status = appsv1.ReplicaSetStatus{Replicas: n, ReadyReplicas: n, AvailableReplicas: n,
				TerminatingReplicas: ptr.To[int32](0), ObservedGeneration: set.Generation}
		}
		w.pods = nil
	} else {
		randomStatus(random, w)
	}
	switch random.IntN(14) {
	case 0:
		*d.Spec.Replicas = random.Int32N(14)
	case 1:
		d.Spec.Template.Spec.Containers[0].Image = template(random.IntN(5)).Spec.Containers[0].Image
	case 2:
		d.Spec.Paused = !d.Spec.Paused
	case 3:
		changeStrategy(random, d)
		appsdefaults.SetObjectDefaults_Deployment(d)
	case 4:
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, "note", strconv.Itoa(random.IntN(3)))
	case 5:
		// The deadline passes.
		for i := range d.Status.Conditions {
			d.Status.Conditions[i].LastUpdateTime = metav1.NewTime(epoch.Add(-100 * 365 * 24 * time.Hour))
		}
	default:
		return
	}
	d.Generation++
}

func (w world) copy() world {
	copied := world{deployment: w.deployment.DeepCopy()}
	for _, set := range w.sets {
		copied.sets = append(copied.sets, set.DeepCopy())
	}
	for _, pod := range w.pods {
		copied.pods = append(copied.pods, pod.DeepCopy())
	}
	return copied
}

// stepUpstream lets upstream's controller take one step, without its queue: the step itself is a field
// that upstream's own tests replace.
func (w world) stepUpstream(ctx context.Context) world {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, logr.Discard()))
	defer cancel()
	before := w.copy()
	objects := []runtime.Object{before.deployment}
	for _, set := range before.sets {
		// The kind of the owner is upstream's there.
		for i := range set.OwnerReferences {
			set.OwnerReferences[i].APIVersion = "apps/v1"
		}
		objects = append(objects, set)
	}
	api := fake.NewSimpleClientset(objects...)
	factory := informers.NewSharedInformerFactory(api, 0)
	deployments, sets, pods := factory.Apps().V1().Deployments(), factory.Apps().V1().ReplicaSets(), factory.Core().V1().Pods()
	controller, err := upstreamdeployment.NewDeploymentController(ctx, deployments, sets, pods, api)
	Expect(err).NotTo(HaveOccurred())
	Expect(deployments.Informer().GetIndexer().Add(before.deployment.DeepCopy())).To(Succeed())
	for _, set := range before.sets {
		Expect(sets.Informer().GetIndexer().Add(set.DeepCopy())).To(Succeed())
	}
	for _, pod := range before.pods {
		Expect(pods.Informer().GetIndexer().Add(pod)).To(Succeed())
	}
	field := reflect.ValueOf(controller).Elem().FieldByName("syncHandler")
	sync := *(*func(context.Context, string) error)(unsafe.Pointer(field.UnsafeAddr()))
	Expect(sync(ctx, "default/web")).To(Succeed())

	after := world{pods: w.pods}
	after.deployment, err = api.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
	Expect(err).NotTo(HaveOccurred())
	list, err := api.AppsV1().ReplicaSets("default").List(ctx, metav1.ListOptions{})
	Expect(err).NotTo(HaveOccurred())
	for i := range list.Items {
		set := &list.Items[i]
		if set.UID == "" {
			set.UID, set.Generation = types.UID("set-"+set.Name), 1
			set.CreationTimestamp = metav1.NewTime(epoch.Add(time.Hour))
		}
		after.sets = append(after.sets, set)
	}
	return after.copy()
}

// stepOurs lets our reconciler take one step.
func (w world) stepOurs(ctx context.Context) world {
	GinkgoHelper()
	before := w.copy()
	objects := []client.Object{upstream.FromDeployment(before.deployment)}
	for _, set := range before.sets {
		objects = append(objects, upstream.FromReplicaSet(set))
	}
	for _, pod := range before.pods {
		objects = append(objects, upstream.FromPod(pod))
	}
	builder := ctrlfake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(objects...).
		WithStatusSubresource(&dappsv1.Deployment{}, &dappsv1.ReplicaSet{})
	for _, indexed := range []client.Object{&dcorev1.Pod{}, &dappsv1.ReplicaSet{}} {
		Expect(claim.Index(ctx, indexer{builder}, indexed)).To(Succeed())
	}
	api := builder.Build()
	r := &reconciler{client: api, live: api, recorder: &record.FakeRecorder{}, clock: clock.RealClock{}, written: newOwnWrites()}
	_, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(before.deployment)})
	Expect(err).NotTo(HaveOccurred())

	var d dappsv1.Deployment
	Expect(api.Get(ctx, client.ObjectKeyFromObject(before.deployment), &d)).To(Succeed())
	var sets dappsv1.ReplicaSetList
	Expect(api.List(ctx, &sets)).To(Succeed())
	after := world{deployment: upstream.Deployment(&d), pods: w.pods}
	for i := range sets.Items {
		after.sets = append(after.sets, upstream.ReplicaSet(&sets.Items[i]))
	}
	return after
}

// indexer lets a builder of a fake client stand where a cache's indexer does.
type indexer struct{ builder *ctrlfake.ClientBuilder }

func (i indexer) IndexField(_ context.Context, object client.Object, field string, extract client.IndexerFunc) error {
	i.builder.WithIndex(object, field, extract)
	return nil
}

// compare says where two steps from one world differ.
func compare(where string, before, theirs, ours world) {
	GinkgoHelper()
	where = strings.Join([]string{where, before.String(), theirs.String(), ours.String()}, "\n")
	old, status := before.deployment.Status, ours.deployment.Status
	// Upstream trims the history by the status before the step, we by the one after it.
	sameView := before.deployment.Spec.Paused ||
		deploymentutil.DeploymentComplete(before.deployment, &old) == deploymentutil.DeploymentComplete(before.deployment, &status)
	theirSizes, ourSizes := theirs.sizes(), ours.sizes()
	if !sameView {
		ignoreTrimmed(theirSizes, ourSizes)
		ignoreTrimmed(ourSizes, theirSizes)
	}
	if before.deployment.Spec.Paused {
		// Upstream deletes an empty ReplicaSet beyond the history limit also where this very step has just
		// given it replicas; we do not.
		maps.DeleteFunc(ourSizes, func(name string, size int32) bool {
			_, kept := theirSizes[name]
			return !kept && size > 0 && *before.set(name).Spec.Replicas == 0
		})
	}
	Expect(ourSizes).To(Equal(theirSizes), where)
	for _, their := range theirs.sets {
		our := ours.set(their.Name)
		if our == nil {
			continue
		}
		for _, key := range []string{dappsv1.RevisionAnnotation, deploymentutil.RevisionHistoryAnnotation, "note"} {
			Expect(our.Annotations[key]).To(Equal(their.Annotations[key]), key+" of "+their.Name+" in "+where)
		}
		Expect(our.Spec.MinReadySeconds).To(Equal(their.Spec.MinReadySeconds), where)
		if was := before.set(their.Name); was == nil || *was.Spec.Replicas != *their.Spec.Replicas {
			for _, key := range []string{deploymentutil.DesiredReplicasAnnotation, deploymentutil.MaxReplicasAnnotation} {
				Expect(our.Annotations[key]).To(Equal(their.Annotations[key]), key+" of "+their.Name+" in "+where)
			}
		}
	}
	their := theirs.deployment.Status
	// Upstream counts the sizes before the step, we those after it.
	status.UnavailableReplicas, their.UnavailableReplicas = 0, 0
	// Upstream does not know these.
	for _, own := range []appsv1.DeploymentConditionType{dappsv1.DeploymentReady, dappsv1.DeploymentReconciling, dappsv1.DeploymentStalled} {
		deploymentutil.RemoveDeploymentCondition(&status, own)
	}
	// Upstream notices a found ReplicaSet a step after it has annotated it, we at once.
	if current := deploymentutil.GetDeploymentCondition(status, appsv1.DeploymentProgressing); current != nil &&
		current.Reason == deploymentutil.FoundNewRSReason && len(their.Conditions) < len(status.Conditions) {
		deploymentutil.RemoveDeploymentCondition(&status, appsv1.DeploymentProgressing)
	}
	Expect(verdicts(status)).To(ConsistOf(verdicts(their)), where)
	status.Conditions, their.Conditions = nil, nil
	Expect(status).To(Equal(their), where)
}

// ignoreTrimmed drops from sizes the empty ReplicaSets that others lack.
func ignoreTrimmed(sizes, others map[string]int32) {
	maps.DeleteFunc(sizes, func(name string, size int32) bool {
		_, kept := others[name]
		return !kept && size == 0
	})
}

// verdicts are the conditions without their times.
func verdicts(status appsv1.DeploymentStatus) []string {
	var verdicts []string
	for _, c := range status.Conditions {
		verdicts = append(verdicts, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return verdicts
}

func (w world) sizes() map[string]int32 {
	sizes := map[string]int32{}
	for _, set := range w.sets {
		sizes[set.Name] = *set.Spec.Replicas
	}
	return sizes
}

func (w world) set(name string) *appsv1.ReplicaSet {
	index := slices.IndexFunc(w.sets, func(set *appsv1.ReplicaSet) bool { return set.Name == name })
	if index < 0 {
		return nil
	}
	return w.sets[index]
}

// String shows a world in a failure.
func (w world) String() string {
	d := w.deployment
	text := fmt.Sprintf("%d of %s, %s", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image, d.Spec.Strategy.Type)
	if rolling := d.Spec.Strategy.RollingUpdate; rolling != nil {
		text += fmt.Sprintf(" +%v -%v", rolling.MaxSurge, rolling.MaxUnavailable)
	}
	if d.Spec.Paused {
		text += ", paused"
	}
	for _, set := range w.sets {
		text += fmt.Sprintf("; %s (%s) %d/%d/%d/%d %v", set.Name, set.Spec.Template.Spec.Containers[0].Image, *set.Spec.Replicas,
			set.Status.Replicas, set.Status.ReadyReplicas, set.Status.AvailableReplicas, set.Annotations)
	}
	return text + fmt.Sprintf("; %v", verdicts(d.Status))
}
