package apps_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/cmd/dray-manager/app"
	"drayage.dev/controlplane"
	"drayage.dev/internal/upstream"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

func TestApps(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "controllers/apps")
}

// api reaches the API server as an administrator, past every cache.
var api client.WithWatch

var _ = BeforeSuite(func(ctx context.Context) {
	EnforceDefaultTimeoutsWhenUsingContexts()
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	SetDefaultConsistentlyDuration(time.Second)

	e, err := env.Start(context.WithoutCancel(ctx), env.WithAdmission(controlplane.AdmissionPlugin{
		Name: "Drayage", New: webhooks.NewPlugin,
	}))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
	api, err = e.Client()
	Expect(err).NotTo(HaveOccurred())

	// The manager runs under its own identity: what its role lacks, a spec finds.
	cfg := app.DefaultConfig()
	cfg.LeaderElection = true
	cfg.RESTConfig, err = e.As("drayage:manager")
	Expect(err).NotTo(HaveOccurred())
	start(func(ctx context.Context) error { return app.Run(ctx, cfg) })
})

// start runs fn until the suite or spec that started it ends.
func start(fn func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	DeferCleanup(func() {
		cancel()
		Eventually(done, 2*time.Minute).Should(Receive(BeNil()))
	})
}

// newNamespace makes a namespace of the spec's own, with a node that runs its pods.
func newNamespace(ctx context.Context) string {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "apps-"}}
	Expect(api.Create(ctx, namespace)).To(Succeed())
	// Admission waits a second and a half for the account that pods run as, and refuses them after that.
	Eventually(func() error {
		return api.Get(ctx, client.ObjectKey{Namespace: namespace.Name, Name: "default"}, &corev1.ServiceAccount{})
	}).Should(Succeed())
	node := &node{namespace: namespace.Name}
	start(node.run)
	return namespace.Name
}

// node plays the agent in one namespace: it makes pods ready unless their image is bad, and takes the
// finalizer off terminating ones, unless they are labelled slow.
type node struct{ namespace string }

func (n *node) run(ctx context.Context) error {
	for ctx.Err() == nil {
		watch, err := api.Watch(ctx, &dcorev1.PodList{}, client.InNamespace(n.namespace))
		if err != nil {
			return client.IgnoreNotFound(ignoreDone(ctx, err))
		}
		for event := range watch.ResultChan() {
			if pod, ok := event.Object.(*dcorev1.Pod); ok && event.Type != "DELETED" {
				if err := n.sync(ctx, pod); ignoreDone(ctx, client.IgnoreNotFound(err)) != nil {
					watch.Stop()
					return fmt.Errorf("playing the node of pod %s: %w", pod.Name, err)
				}
			}
		}
	}
	return nil
}

func ignoreDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (n *node) sync(ctx context.Context, pod *dcorev1.Pod) error {
	base := pod.DeepCopy()
	switch {
	case pod.DeletionTimestamp != nil && pod.Labels["slow"] == "":
		pod.Finalizers = nil
		return api.Patch(ctx, pod, client.MergeFrom(base))
	case pod.DeletionTimestamp != nil, ready(pod), strings.Contains(pod.Spec.Containers[0].Image, "bad"):
		return nil
	}
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
	}}
	return api.Status().Patch(ctx, pod, client.MergeFrom(base))
}

func ready(pod *dcorev1.Pod) bool {
	return pod.DeletionTimestamp == nil && podutil.IsPodReady(upstream.Pod(pod))
}

// deployment builds a Deployment; change adapts it.
func deployment(namespace, name string, replicas int32, change ...func(*dappsv1.Deployment)) *dappsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &dappsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0)),
				},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
			},
		},
	}
	for _, change := range change {
		change(d)
	}
	return d
}

// replicaSet builds a ReplicaSet.
func replicaSet(namespace, name string, replicas int32) *dappsv1.ReplicaSet {
	d := deployment(namespace, name, replicas)
	return &dappsv1.ReplicaSet{
		ObjectMeta: d.ObjectMeta,
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: d.Spec.Selector, Template: d.Spec.Template},
	}
}

// edit changes an object by a merge patch upon its newest state.
func edit[T client.Object](ctx context.Context, object T, change func(T)) {
	GinkgoHelper()
	Expect(api.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
	base := object.DeepCopyObject().(client.Object)
	change(object)
	Expect(api.Patch(ctx, object, client.MergeFrom(base))).To(Succeed())
}

// reading returns a function that reads an object anew, for Eventually.
func reading[T client.Object](object T) func(context.Context) (T, error) {
	key := client.ObjectKeyFromObject(object)
	return func(ctx context.Context) (T, error) {
		err := api.Get(ctx, key, object)
		return object, err
	}
}

// known waits until the controllers know these pods as they are now. Each kind comes to them by a watch of its own, so
// that they may see a ReplicaSet before pods that were written earlier. What they know shows in a budget: it counts the pods of
// a label that is given here.
func known(ctx context.Context, pods ...*dcorev1.Pod) {
	GinkgoHelper()
	mark := map[string]string{"known": rand.String(8)}
	for _, pod := range pods {
		edit(ctx, pod, func(pod *dcorev1.Pod) { maps.Copy(pod.Labels, mark) })
	}
	budget := &dpolicyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: pods[0].Namespace, Name: mark["known"]}}
	budget.Spec.MinAvailable, budget.Spec.Selector = ptr.To(intstr.FromInt32(0)), &metav1.LabelSelector{MatchLabels: mark}
	Expect(api.Create(ctx, budget)).To(Succeed())
	Eventually(reading(budget)).WithContext(ctx).Should(HaveField("Status.ExpectedPods", BeEquivalentTo(len(pods))))
	Expect(api.Delete(ctx, budget)).To(Succeed())
}

// knownSets waits until the controllers know these ReplicaSets as they are now.
func knownSets(ctx context.Context, sets []dappsv1.ReplicaSet) {
	GinkgoHelper()
	for i := range sets {
		set := &sets[i]
		edit(ctx, set, func(set *dappsv1.ReplicaSet) { set.Spec.MinReadySeconds++ })
		// The controller says which generation it has seen.
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.ObservedGeneration", set.Generation))
	}
}

// activePods lists the pods of a namespace that are not terminating.
func activePods(ctx context.Context, namespace string) []dcorev1.Pod {
	GinkgoHelper()
	var pods dcorev1.PodList
	Expect(api.List(ctx, &pods, client.InNamespace(namespace))).To(Succeed())
	var active []dcorev1.Pod
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil {
			active = append(active, pod)
		}
	}
	return active
}

// setsOf lists the ReplicaSets of a namespace.
func setsOf(ctx context.Context, namespace string) []dappsv1.ReplicaSet {
	GinkgoHelper()
	var sets dappsv1.ReplicaSetList
	Expect(api.List(ctx, &sets, client.InNamespace(namespace))).To(Succeed())
	return sets.Items
}

// haveRolledOut matches a Deployment whose spec is what runs.
func haveRolledOut() OmegaMatcher {
	return WithTransform(func(d *dappsv1.Deployment) bool {
		s := d.Status
		return s.ObservedGeneration == d.Generation && s.Replicas == *d.Spec.Replicas &&
			s.UpdatedReplicas == s.Replicas && s.AvailableReplicas == s.Replicas
	}, BeTrue())
}

// haveCondition matches a Deployment by status and reason of a condition.
func haveCondition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason string) OmegaMatcher {
	return WithTransform(func(d *dappsv1.Deployment) []appsv1.DeploymentCondition { return d.Status.Conditions },
		ContainElement(And(HaveField("Type", kind), HaveField("Status", status), HaveField("Reason", reason))))
}
