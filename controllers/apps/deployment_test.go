package apps_test

import (
	"context"
	"fmt"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/changes"
)

var _ = Describe("a Deployment", func() {
	var namespace string

	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	rollOut := func(ctx context.Context, d *dappsv1.Deployment) {
		GinkgoHelper()
		Expect(api.Create(ctx, d)).To(Succeed())
		Eventually(reading(d)).WithContext(ctx).Should(haveRolledOut())
	}
	setImage := func(ctx context.Context, d *dappsv1.Deployment, image string) {
		GinkgoHelper()
		edit(ctx, d, func(d *dappsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
	}
	images := func(ctx context.Context) []string {
		var images []string
		for _, pod := range activePods(ctx, namespace) {
			images = append(images, pod.Spec.Containers[0].Image)
		}
		return images
	}
	replicasByImage := func(ctx context.Context) map[string]int32 {
		sizes := map[string]int32{}
		for _, set := range setsOf(ctx, namespace) {
			sizes[set.Spec.Template.Spec.Containers[0].Image] = *set.Spec.Replicas
		}
		return sizes
	}

	It("makes a ReplicaSet of its template and reports what runs", func(ctx context.Context) {
		d := deployment(namespace, "web", 3, func(d *dappsv1.Deployment) { d.Annotations = map[string]string{"team": "shop"} })
		rollOut(ctx, d)
		Expect(d).To(haveCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable"))
		Eventually(reading(d)).WithContext(ctx).Should(haveCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetAvailable"))
		Expect(d).To(haveCondition(dappsv1.DeploymentReady, corev1.ConditionTrue, "NewReplicaSetAvailable"))
		Expect(d).NotTo(haveCondition(dappsv1.DeploymentReconciling, corev1.ConditionTrue, "ReplicaSetUpdated"))
		Expect(d.Annotations).To(HaveKeyWithValue(dappsv1.RevisionAnnotation, "1"))
		Expect(d.Status.Selector).To(Equal("app=web"))
		Expect(d.Status.Summary).To(Equal(dappsv1.DeploymentSummary{Ready: "3/3", UpToDate: 3, Available: 3}))

		sets := setsOf(ctx, namespace)
		Expect(sets).To(HaveLen(1))
		hash := sets[0].Labels[appsv1.DefaultDeploymentUniqueLabelKey]
		Expect(sets[0].Name).To(Equal("web-" + hash))
		Expect(sets[0].Spec.Selector.MatchLabels).To(HaveKeyWithValue(appsv1.DefaultDeploymentUniqueLabelKey, hash))
		Expect(sets[0].Annotations).To(And(HaveKeyWithValue("team", "shop"), HaveKeyWithValue(dappsv1.RevisionAnnotation, "1"),
			HaveKeyWithValue("deployment.kubernetes.io/desired-replicas", "3"), HaveKeyWithValue("deployment.kubernetes.io/max-replicas", "4")))
		Eventually(func(ctx context.Context) ([]corev1.Event, error) {
			var events corev1.EventList
			err := api.List(ctx, &events, client.InNamespace(namespace))
			return events.Items, err
		}).WithContext(ctx).Should(ContainElement(And(HaveField("InvolvedObject.Kind", "Deployment"), HaveField("Reason", "ScalingReplicaSet"),
			HaveField("Message", fmt.Sprintf("Scaled up replica set %s from 0 to 3", sets[0].Name)))))
	})

	It("scales without a new revision", func(ctx context.Context) {
		d := deployment(namespace, "web", 3)
		rollOut(ctx, d)
		for _, replicas := range []int32{10, 2, 0, 1} {
			edit(ctx, d, func(d *dappsv1.Deployment) { d.Spec.Replicas = &replicas })
			Eventually(reading(d)).WithContext(ctx).Should(haveRolledOut())
			Eventually(images).WithContext(ctx).Should(HaveLen(int(replicas)))
		}
		Expect(setsOf(ctx, namespace)).To(HaveLen(1))
		Expect(d.Annotations).To(HaveKeyWithValue(dappsv1.RevisionAnnotation, "1"))
	})

	It("never shows fewer ready pods than wanted, nor more than maxSurge beyond, while it rolls", func(ctx context.Context) {
		d := deployment(namespace, "web", 3)
		rollOut(ctx, d)
		count := countPods(ctx, namespace)
		for _, image := range []string{"web:2", "web:3"} {
			setImage(ctx, d, image)
			Eventually(reading(d)).WithContext(ctx).Should(haveRolledOut())
			Eventually(images).WithContext(ctx).Should(HaveEach(image))
		}
		fewestReady, most := count()
		Expect(fewestReady).To(BeNumerically(">=", 3))
		Expect(most).To(BeNumerically("<=", 4))
		Expect(d.Annotations).To(HaveKeyWithValue(dappsv1.RevisionAnnotation, "3"))
	})

	It("stops at a bad image, names the deadline, goes on serving, and comes back to the old template", func(ctx context.Context) {
		d := deployment(namespace, "web", 3, func(d *dappsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = ptr.To[int32](2) })
		rollOut(ctx, d)
		served := names(activePods(ctx, namespace))
		setImage(ctx, d, "bad:1")
		Eventually(reading(d)).WithContext(ctx).Should(haveCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded"))
		Expect(d).To(haveCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable"))
		Expect(d).To(haveCondition(dappsv1.DeploymentStalled, corev1.ConditionTrue, "ProgressDeadlineExceeded"))
		Eventually(func(ctx context.Context) []string { return names(activePods(ctx, namespace)) }).WithContext(ctx).
			Should(And(HaveLen(4), ContainElements(served)))

		setImage(ctx, d, "web:1")
		Eventually(reading(d)).WithContext(ctx).Should(And(haveRolledOut(),
			haveCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetAvailable")))
		Eventually(func(ctx context.Context) []string { return names(activePods(ctx, namespace)) }).WithContext(ctx).Should(ConsistOf(served))
		Expect(setsOf(ctx, namespace)).To(HaveLen(2))
		Expect(d.Annotations).To(HaveKeyWithValue(dappsv1.RevisionAnnotation, "3"))
		for _, set := range setsOf(ctx, namespace) {
			if set.Spec.Template.Spec.Containers[0].Image == "web:1" {
				Expect(set.Annotations).To(HaveKeyWithValue("deployment.kubernetes.io/revision-history", "1"))
			}
		}
	})

	It("does nothing about a new template while paused, but scales", func(ctx context.Context) {
		d := deployment(namespace, "web", 2)
		rollOut(ctx, d)
		edit(ctx, d, func(d *dappsv1.Deployment) {
			d.Spec.Paused = true
			d.Spec.Template.Spec.Containers[0].Image = "web:2"
		})
		Eventually(reading(d)).WithContext(ctx).Should(haveCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentPaused"))
		edit(ctx, d, func(d *dappsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](3) })
		Eventually(images).WithContext(ctx).Should(And(HaveLen(3), HaveEach("web:1")))
		Expect(setsOf(ctx, namespace)).To(HaveLen(1))
		edit(ctx, d, func(d *dappsv1.Deployment) { d.Spec.Paused = false })
		Eventually(reading(d)).WithContext(ctx).Should(haveRolledOut())
		Eventually(images).WithContext(ctx).Should(And(HaveLen(3), HaveEach("web:2")))
	})

	It("shares a change of size between both ReplicaSets of a rollout that stands", func(ctx context.Context) {
		d := deployment(namespace, "web", 8, func(d *dappsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate.MaxSurge.IntVal = 2
			d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntVal = 2
		})
		rollOut(ctx, d)
		setImage(ctx, d, "bad:1")
		Eventually(replicasByImage).WithContext(ctx).Should(Equal(map[string]int32{"web:1": 6, "bad:1": 4}))
		edit(ctx, d, func(d *dappsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](18) })
		Eventually(replicasByImage).WithContext(ctx).Should(Equal(map[string]int32{"web:1": 12, "bad:1": 8}))
	})

	It("ends every old pod before the first new one with Recreate", func(ctx context.Context) {
		d := deployment(namespace, "web", 3, func(d *dappsv1.Deployment) {
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		})
		rollOut(ctx, d)
		// A pod that takes its time. The finalizer is not Drayage's, which the pod collector would remove.
		slow := &activePods(ctx, namespace)[0]
		edit(ctx, slow, func(pod *dcorev1.Pod) {
			pod.Labels["slow"] = "true"
			pod.Finalizers = append(pod.Finalizers, "test.drayage.dev/slow")
		})
		setImage(ctx, d, "web:2")
		Eventually(func(ctx context.Context) []string { return names(activePods(ctx, namespace)) }).WithContext(ctx).Should(BeEmpty())
		Consistently(images).WithContext(ctx).Should(BeEmpty())
		edit(ctx, slow, func(pod *dcorev1.Pod) { delete(pod.Labels, "slow") })
		Eventually(reading(d)).WithContext(ctx).Should(haveRolledOut())
		Eventually(images).WithContext(ctx).Should(And(HaveLen(3), HaveEach("web:2")))
	})

	It("keeps as much history as it is told", func(ctx context.Context) {
		d := deployment(namespace, "web", 1, func(d *dappsv1.Deployment) { d.Spec.RevisionHistoryLimit = ptr.To[int32](1) })
		rollOut(ctx, d)
		for revision := 2; revision <= 4; revision++ {
			setImage(ctx, d, fmt.Sprintf("web:%d", revision))
			Eventually(reading(d)).WithContext(ctx).Should(haveRolledOut())
		}
		Eventually(replicasByImage).WithContext(ctx).Should(Equal(map[string]int32{"web:3": 0, "web:4": 1}))
	})

	It("adopts a ReplicaSet of its own template, and one of another as an old one", func(ctx context.Context) {
		first := deployment(namespace, "web", 2)
		rollOut(ctx, first)
		setImage(ctx, first, "web:2")
		Eventually(reading(first)).WithContext(ctx).Should(haveRolledOut())
		pods := names(activePods(ctx, namespace))
		Expect(api.Delete(ctx, first, client.PropagationPolicy(metav1.DeletePropagationOrphan))).To(Succeed())
		Eventually(func(ctx context.Context) bool {
			return apierrors.IsNotFound(api.Get(ctx, client.ObjectKeyFromObject(first), &dappsv1.Deployment{}))
		}).WithContext(ctx).Should(BeTrue())
		for _, set := range setsOf(ctx, namespace) {
			Expect(metav1.GetControllerOf(&set)).To(BeNil())
		}
		knownSets(ctx, setsOf(ctx, namespace))

		next := deployment(namespace, "web", 2, func(d *dappsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "web:2" })
		Expect(api.Create(ctx, next)).To(Succeed())
		Eventually(reading(next)).WithContext(ctx).Should(haveRolledOut())
		Expect(names(activePods(ctx, namespace))).To(ConsistOf(pods))
		sets := setsOf(ctx, namespace)
		Expect(sets).To(HaveLen(2))
		for _, set := range sets {
			Expect(metav1.IsControlledBy(&set, next)).To(BeTrue())
		}
		Expect(next.Annotations).To(HaveKeyWithValue(dappsv1.RevisionAnnotation, "2"))

		By("releasing the one whose labels move away")
		edit(ctx, &sets[0], func(set *dappsv1.ReplicaSet) { set.Labels["app"] = "else" })
		Eventually(reading(&sets[0])).WithContext(ctx).Should(WithTransform(
			func(set *dappsv1.ReplicaSet) any { return metav1.GetControllerOf(set) }, BeNil()))
	})

	It("finds another name when another template has its hash", func(ctx context.Context) {
		d := deployment(namespace, "web", 1)
		rollOut(ctx, d)
		sets := setsOf(ctx, namespace)
		Expect(api.Delete(ctx, d, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
		Eventually(setsOf).WithContext(ctx).WithArguments(namespace).Should(BeEmpty())
		impostor := replicaSet(namespace, sets[0].Name, 0)
		Expect(api.Create(ctx, impostor)).To(Succeed())

		again := deployment(namespace, "web", 1)
		Expect(api.Create(ctx, again)).To(Succeed())
		Eventually(reading(again)).WithContext(ctx).Should(haveRolledOut())
		Expect(again.Status.CollisionCount).To(HaveValue(Equal(int32(1))))
	})

	It("passes on why its pods cannot be created", func(ctx context.Context) {
		d := deployment(namespace, "web", 1, func(d *dappsv1.Deployment) { d.Spec.Template.Spec.PriorityClassName = "missing" })
		Expect(api.Create(ctx, d)).To(Succeed())
		Eventually(reading(d)).WithContext(ctx).Should(haveCondition(appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, "FailedCreate"))
	})

	It("writes nothing once all is as it should be", func(ctx context.Context) {
		d := deployment(namespace, "web", 2)
		rollOut(ctx, d)
		Eventually(reading(d)).WithContext(ctx).Should(haveCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetAvailable"))
		versions := func(ctx context.Context) []string {
			Expect(api.Get(ctx, client.ObjectKeyFromObject(d), d)).To(Succeed())
			versions := []string{d.ResourceVersion}
			for _, set := range setsOf(ctx, namespace) {
				versions = append(versions, set.ResourceVersion)
			}
			return versions
		}
		Consistently(versions).WithContext(ctx).Should(Equal(versions(ctx)))
		edit(ctx, d, func(d *dappsv1.Deployment) { d.Labels = map[string]string{"new": "label"} })
		Consistently(versions).WithContext(ctx).Should(Equal(versions(ctx)))
	})
})

// countPods watches the pods of a namespace until the returned function is called, which says how few of
// them were ever ready and how many there ever were.
func countPods(ctx context.Context, namespace string) func() (fewestReady, most int) {
	GinkgoHelper()
	var list dcorev1.PodList
	watch, err := changes.Of(ctx, api, &list, client.InNamespace(namespace))
	Expect(err).NotTo(HaveOccurred())
	pods := map[string]*dcorev1.Pod{}
	for i := range list.Items {
		pods[list.Items[i].Name] = &list.Items[i]
	}
	fewestReady, most := len(pods), len(pods)
	var wait sync.WaitGroup
	wait.Go(func() {
		defer GinkgoRecover()
		for event := range watch.ResultChan() {
			pod, ok := event.Object.(*dcorev1.Pod)
			Expect(ok).To(BeTrue(), "%v", event.Object)
			pods[pod.Name] = pod
			if event.Type == "DELETED" {
				delete(pods, pod.Name)
			}
			readyNow, activeNow := 0, 0
			for _, pod := range pods {
				if ready(pod) {
					readyNow++
				}
				if pod.DeletionTimestamp == nil {
					activeNow++
				}
			}
			fewestReady, most = min(fewestReady, readyNow), max(most, activeNow)
		}
	})
	return func() (int, int) {
		watch.Stop()
		wait.Wait()
		return fewestReady, most
	}
}
