package gitops_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

// deployment builds one of two replicas, labelled app=<name>.
func deployment(namespace, name string, change ...func(*dappsv1.Deployment)) *dappsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &dappsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{AutomountServiceAccountToken: ptr.To(false), Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
			},
		},
	}
	for _, change := range change {
		change(d)
	}
	return d
}

func replicaSet(namespace, name string, change ...func(*dappsv1.ReplicaSet)) *dappsv1.ReplicaSet {
	d := deployment(namespace, name)
	set := &dappsv1.ReplicaSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.ReplicaSetSpec{
		Replicas: d.Spec.Replicas, Selector: d.Spec.Selector, Template: d.Spec.Template,
	}}
	for _, change := range change {
		change(set)
	}
	return set
}

// runPods plays the agent: it makes the pods of app=<name> ready.
func runPods(ctx context.Context, namespace, name string, count int) {
	GinkgoHelper()
	var pods dcorev1.PodList
	Eventually(func() ([]dcorev1.Pod, error) {
		err := api.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{"app": name})
		return pods.Items, err
	}).WithContext(ctx).Should(HaveLen(count))
	for i := range pods.Items {
		report(ctx, &pods.Items[i], runtimeState(&pods.Items[i], running), nil)
	}
}

func refusedPods(spec *corev1.PodSpec) { spec.PriorityClassName = "missing" }

var deploymentPhases = map[string]makePhase{
	"deployment-new": func(ctx context.Context, namespace, name string) client.Object {
		return created(ctx, deployment(namespace, name))
	},
	"deployment-progressing": func(ctx context.Context, namespace, name string) client.Object {
		d := deployment(namespace, name)
		create(ctx, d)
		Eventually(reading(d)).WithContext(ctx).Should(And(HaveField("Status.UpdatedReplicas", int32(2)), progressing("ReplicaSetUpdated")))
		return d
	},
	"deployment-available": func(ctx context.Context, namespace, name string) client.Object {
		return available(ctx, namespace, name)
	},
	"deployment-changed": func(ctx context.Context, namespace, name string) client.Object {
		d := available(ctx, namespace, name)
		return first(ctx, d, func(d *dappsv1.Deployment) bool { return d.Spec.Template.Spec.Containers[0].Image == "web:2" }, func() {
			edit(ctx, d.DeepCopy(), func(d *dappsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "web:2" })
		})
	},
	"deployment-paused": func(ctx context.Context, namespace, name string) client.Object {
		d := deployment(namespace, name)
		create(ctx, d)
		Eventually(reading(d)).WithContext(ctx).Should(And(HaveField("Status.UpdatedReplicas", int32(2)), progressing("ReplicaSetUpdated")))
		edit(ctx, d, func(d *dappsv1.Deployment) { d.Spec.Paused = true })
		Eventually(reading(d)).WithContext(ctx).Should(And(HaveField("Status.ObservedGeneration", d.Generation), progressing("DeploymentPaused")))
		return d
	},
	"deployment-refused-pods": func(ctx context.Context, namespace, name string) client.Object {
		d := deployment(namespace, name, func(d *dappsv1.Deployment) { refusedPods(&d.Spec.Template.Spec) })
		create(ctx, d)
		Eventually(reading(d)).WithContext(ctx).Should(HaveField("Status.Conditions", And(
			ContainElement(HaveField("Reason", "FailedCreate")), ContainElement(HaveField("Reason", "NewReplicaSetCreated")))))
		return d
	},
	"deployment-deadline": func(ctx context.Context, namespace, name string) client.Object {
		d := deployment(namespace, name, func(d *dappsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = ptr.To[int32](1) })
		create(ctx, d)
		Eventually(reading(d)).WithContext(ctx).Should(And(HaveField("Status.UpdatedReplicas", int32(2)), progressing("ProgressDeadlineExceeded")))
		return d
	},
	"deployment-zero": func(ctx context.Context, namespace, name string) client.Object {
		d := deployment(namespace, name, func(d *dappsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) })
		create(ctx, d)
		Eventually(reading(d)).WithContext(ctx).Should(progressing("NewReplicaSetAvailable"))
		return d
	},
	"deployment-terminating": func(ctx context.Context, namespace, name string) client.Object {
		return deleted(ctx, available(ctx, namespace, name))
	},
}

func available(ctx context.Context, namespace, name string) *dappsv1.Deployment {
	GinkgoHelper()
	d := deployment(namespace, name)
	create(ctx, d)
	runPods(ctx, namespace, name, 2)
	Eventually(reading(d)).WithContext(ctx).Should(And(HaveField("Status.AvailableReplicas", int32(2)), progressing("NewReplicaSetAvailable")))
	return d
}

// progressing matches a Deployment by the reason of its condition Progressing.
func progressing(reason string) OmegaMatcher {
	return HaveField("Status.Conditions", ContainElement(And(HaveField("Type", appsv1.DeploymentProgressing), HaveField("Reason", reason))))
}

var replicaSetPhases = map[string]makePhase{
	"replicaset-new": func(ctx context.Context, namespace, name string) client.Object {
		return created(ctx, replicaSet(namespace, name))
	},
	"replicaset-unavailable": func(ctx context.Context, namespace, name string) client.Object {
		set := replicaSet(namespace, name)
		create(ctx, set)
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.Replicas", int32(2)))
		return set
	},
	"replicaset-available": func(ctx context.Context, namespace, name string) client.Object {
		return availableSet(ctx, namespace, name)
	},
	"replicaset-changed": func(ctx context.Context, namespace, name string) client.Object {
		set := availableSet(ctx, namespace, name)
		return first(ctx, set, func(set *dappsv1.ReplicaSet) bool { return *set.Spec.Replicas == 3 }, func() {
			edit(ctx, set.DeepCopy(), func(set *dappsv1.ReplicaSet) { set.Spec.Replicas = ptr.To[int32](3) })
		})
	},
	"replicaset-refused-pods": func(ctx context.Context, namespace, name string) client.Object {
		set := replicaSet(namespace, name, func(set *dappsv1.ReplicaSet) { refusedPods(&set.Spec.Template.Spec) })
		create(ctx, set)
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.Conditions", ContainElement(HaveField("Reason", "FailedCreate"))))
		return set
	},
	"replicaset-terminating": func(ctx context.Context, namespace, name string) client.Object {
		return deleted(ctx, availableSet(ctx, namespace, name))
	},
}

func availableSet(ctx context.Context, namespace, name string) *dappsv1.ReplicaSet {
	GinkgoHelper()
	set := replicaSet(namespace, name)
	create(ctx, set)
	runPods(ctx, namespace, name, 2)
	Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.AvailableReplicas", int32(2)))
	return set
}
