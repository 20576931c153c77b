package webhooks_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

var _ = Describe("pods", func() {
	It("are prepared when they are created", func(ctx context.Context) {
		pod := createPod(ctx, nil)
		Expect(pod.Finalizers).To(Equal([]string{dcorev1.NodeFinalizer}))
		Expect(pod.Spec.Priority).To(HaveValue(BeZero()))
		Expect(pod.Spec.Containers[0].Resources.Requests.Cpu().String()).To(Equal("100m"))
		Expect(pod.Spec.Containers[0].ImagePullPolicy).To(Equal(corev1.PullAlways))
		Expect(pod.Spec.ServiceAccountName).To(Equal("default"))
		Expect(pod.Spec.Volumes).To(HaveLen(1))
		Expect(pod.Spec.Volumes[0].Name).To(HavePrefix("kube-api-access-"))
		Expect(pod.Spec.Tolerations).To(HaveLen(2))
		Expect(pod.Spec.NodeName).To(BeEmpty())
	})

	It("get a name from generateName", func(ctx context.Context) {
		pod := createPod(ctx, func(p *dcorev1.Pod) { p.Name, p.GenerateName = "", "web-" })
		Expect(pod.Name).To(MatchRegexp("^web-.{5}$"))
	})

	DescribeTable("are refused, and nothing is stored", func(ctx context.Context, spec string, message string) {
		namespace := newNamespace(ctx)
		u := object(namespace, `{apiVersion: core.drayage.dev/v1, kind: Pod, metadata: {name: web}, spec: `+spec+`}`)
		Expect(api.Create(ctx, u, client.FieldValidation("Strict"))).To(MatchError(ContainSubstring(message)))
		Expect(apierrors.IsNotFound(api.Get(ctx, client.ObjectKeyFromObject(u), u))).To(BeTrue())
	},
		Entry("for an unknown field", `{containers: [{name: a, image: b, imagePulPolicy: Never}]}`,
			`strict decoding error: unknown field "spec.containers[0].imagePulPolicy"`),
		Entry("for a wrong type", `{containers: [{name: a, image: [b]}]}`,
			`Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal array into Go struct field Container.spec.containers.image of type string`),
		Entry("for a wrong quantity", `{containers: [{name: a, image: b, resources: {limits: {cpu: lots}}}]}`,
			`Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression`),
		Entry("for an unimplemented field", `{volumes: [{name: data, persistentVolumeClaim: {claimName: c}}], containers: [{name: a, image: b}]}`,
			`Pod.core.drayage.dev "web" is invalid: spec.volumes[0].persistentVolumeClaim: Forbidden: not implemented by Drayage yet`),
		Entry("for two containers of one name", `{containers: [{name: a, image: b}, {name: a, image: c}]}`,
			`Pod.core.drayage.dev "web" is invalid: spec.containers[1].name: Duplicate value: "a"`),
		Entry("for a volume mount without volume", `{containers: [{name: a, image: b, volumeMounts: [{name: data, mountPath: /data}]}]}`,
			`Pod.core.drayage.dev "web" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "data"`),
		Entry("for no containers", `{}`, `Pod.core.drayage.dev "web" is invalid: spec.containers: Required value`),
		Entry("for an unknown priority class", `{priorityClassName: vip, containers: [{name: a, image: b}]}`,
			`pods.core.drayage.dev "web" is forbidden: no PriorityClass with name vip was found`),
		Entry("for a priority of one's own", `{priority: 7, containers: [{name: a, image: b}]}`,
			`pods.core.drayage.dev "web" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name`),
		Entry("for an unknown service account", `{serviceAccountName: robot, containers: [{name: a, image: b}]}`,
			`/robot: serviceaccount "robot" not found`),
	)

	It("take their priority from the class", func(ctx context.Context) {
		class := object("", `{apiVersion: scheduling.drayage.dev/v1, kind: PriorityClass, metadata: {generateName: vip-}, value: 1000}`)
		Expect(api.Create(ctx, class)).To(Succeed())
		pod := createPod(ctx, func(p *dcorev1.Pod) { p.Spec.PriorityClassName = class.GetName() })
		Expect(pod.Spec.Priority).To(HaveValue(BeEquivalentTo(1000)))
		Expect(pod.Spec.PreemptionPolicy).To(HaveValue(Equal(corev1.PreemptLowerPriority)))
		critical := createPod(ctx, func(p *dcorev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" })
		Expect(critical.Spec.Priority).To(HaveValue(BeEquivalentTo(2000001000)))
	})

	It("keep to the pod security standard of their namespace", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		labels := `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"baseline","pod-security.kubernetes.io/warn":"restricted"}}}`
		Expect(patch(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, labels)).To(Succeed())
		create := func(name string, change func(*corev1.SecurityContext)) error {
			p := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
			p.Spec.Containers = []corev1.Container{{Name: "web", Image: "web", SecurityContext: &corev1.SecurityContext{}}}
			change(p.Spec.Containers[0].SecurityContext)
			return api.Create(ctx, p, client.DryRunAll)
		}
		Eventually(func() error {
			return create("big", func(c *corev1.SecurityContext) { c.Privileged = ptr.To(true) })
		}).Should(MatchError(`pods.core.drayage.dev "big" is forbidden: violates PodSecurity "baseline:latest": privileged (container "web" must not set securityContext.privileged=true)`))
		warnings.take()
		Expect(create("small", func(*corev1.SecurityContext) {})).To(Succeed())
		Expect(warnings.take()).To(ContainElement(ContainSubstring(`would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false`)))
		Expect(api.Create(ctx, object(namespace, deployment), client.DryRunAll)).To(Succeed())
		Expect(warnings.take()).To(ContainElement(ContainSubstring(`would violate PodSecurity "restricted:latest"`)))
	})

	It("change only as upstream's do", func(ctx context.Context) {
		pod := createPod(ctx, nil)
		key := client.ObjectKeyFromObject(pod)
		pod.Spec.Containers[0].Image = "web:2"
		Expect(api.Update(ctx, pod)).To(Succeed())

		pod.Spec.Containers[0].Command = []string{"sh"}
		err := api.Update(ctx, pod)
		Expect(err).To(MatchError(ContainSubstring("spec: Forbidden: pod updates may not change fields other than")))
		Expect(apierrors.IsInvalid(err)).To(BeTrue())
		Expect(api.Get(ctx, key, pod)).To(Succeed())
		Expect(pod.Spec.Containers[0].Command).To(BeNil())

		// A client that leaves out what creation filled in changes nothing.
		pod.Spec.Priority, pod.Spec.PreemptionPolicy = nil, nil
		Expect(api.Update(ctx, pod)).To(Succeed())
		Expect(pod.Spec.Priority).To(HaveValue(BeZero()))

		Expect(patch(ctx, pod, `{"metadata":{"annotations":{"drayage.dev/deletion-grace-period-seconds":"soon"}}}`)).
			To(MatchError(ContainSubstring("must be a whole number of seconds, zero or more")))
		Expect(patch(ctx, pod, `{"metadata":{"labels":{"a":"b"},"finalizers":[]}}`)).To(Succeed())
		Expect(pod.Finalizers).To(BeEmpty())
	})

	It("are bound once, and not behind a gate", func(ctx context.Context) {
		pod := createPod(ctx, nil)
		Expect(patch(ctx, pod, `{"spec":{"nodeName":"Not A Node"}}`)).To(MatchError(ContainSubstring(`spec.nodeName: Invalid value: "Not A Node"`)))
		Expect(patch(ctx, pod, `{"spec":{"nodeName":"n1"}}`)).To(Succeed())
		Expect(patch(ctx, pod, `{"spec":{"nodeName":"n2"}}`)).To(MatchError(ContainSubstring("spec: Forbidden: pod updates may not change fields")))

		gated := createPod(ctx, func(p *dcorev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}} })
		Expect(patch(ctx, gated, `{"spec":{"nodeName":"n1"}}`)).To(MatchError(ContainSubstring("spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared")))
		Expect(patch(ctx, gated, `{"metadata":{"annotations":{"a":"b"}},"spec":{"nodeName":"n1"}}`)).To(MatchError(ContainSubstring("cannot be set until all schedulingGates have been cleared")))
		Expect(patch(ctx, gated, `{"spec":{"schedulingGates":null}}`)).To(Succeed())
		Expect(patch(ctx, gated, `{"spec":{"nodeName":"n1"}}`)).To(Succeed())

		deleted := createPod(ctx, nil)
		Expect(api.Delete(ctx, deleted)).To(Succeed())
		Expect(patch(ctx, deleted, `{"spec":{"nodeName":"n1"}}`)).To(MatchError(ContainSubstring("pod web is being deleted, cannot be assigned to a host")))
	})

	It("have their status validated, not their spec", func(ctx context.Context) {
		pod := createPod(ctx, func(p *dcorev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
		pod.Status.Phase = corev1.PodRunning
		pod.Status.QOSClass = corev1.PodQOSBurstable
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}}
		Expect(api.Status().Update(ctx, pod)).To(Succeed())
		Expect(pod.Status.QOSClass).To(Equal(corev1.PodQOSBurstable))

		pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		Expect(api.Status().Update(ctx, pod)).To(MatchError(ContainSubstring("status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state")))
	})
})

var _ = Describe("deletions of pods", func() {
	It("carry the grace period to the agent", func(ctx context.Context) {
		pod := createPod(ctx, nil)
		Expect(api.Delete(ctx, pod, client.GracePeriodSeconds(5), client.DryRunAll)).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.Annotations).NotTo(HaveKey(dcorev1.DeletionGracePeriodAnnotation))

		Expect(api.Delete(ctx, pod, client.GracePeriodSeconds(5))).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.DeletionTimestamp).NotTo(BeNil())
		Expect(pod.Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "5"))

		By("only shortening it once they have begun")
		Expect(api.Delete(ctx, pod, client.GracePeriodSeconds(60))).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "5"))
		Expect(api.Delete(ctx, pod, client.GracePeriodSeconds(2))).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "2"))
	})

	It("leave the pod to its own grace period without one", func(ctx context.Context) {
		pod := createPod(ctx, nil)
		Expect(api.Delete(ctx, pod)).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.DeletionTimestamp).NotTo(BeNil())
		Expect(pod.Annotations).NotTo(HaveKey(dcorev1.DeletionGracePeriodAnnotation))
	})

	It("remove it at once when they are forced", func(ctx context.Context) {
		pod := createPod(ctx, nil)
		Expect(api.Delete(ctx, pod, client.GracePeriodSeconds(0), client.DryRunAll)).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.Finalizers).To(ContainElement(dcorev1.NodeFinalizer))

		Expect(api.Delete(ctx, pod, client.GracePeriodSeconds(0))).To(Succeed())
		Expect(apierrors.IsNotFound(api.Get(ctx, client.ObjectKeyFromObject(pod), pod))).To(BeTrue())

		By("leaving other finalizers to their owners")
		pod = createPod(ctx, func(p *dcorev1.Pod) { p.Finalizers = []string{"example.com/mine"} })
		Expect(api.Delete(ctx, pod, client.GracePeriodSeconds(0))).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.Finalizers).To(Equal([]string{"example.com/mine"}))
		Expect(patch(ctx, pod, `{"metadata":{"finalizers":[]}}`)).To(Succeed())
	})

	It("that are forced after they have begun tell so to who takes the finalizer off", func(ctx context.Context) {
		pod := createPod(ctx, nil)
		Expect(api.Delete(ctx, pod)).To(Succeed())
		Expect(api.Delete(ctx, pod, client.GracePeriodSeconds(0))).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "0"))
	})

	It("of a whole collection work as well", func(ctx context.Context) {
		pod := createPod(ctx, nil)
		Expect(api.DeleteAllOf(ctx, &dcorev1.Pod{}, client.InNamespace(pod.Namespace), client.GracePeriodSeconds(0))).To(Succeed())
		Expect(apierrors.IsNotFound(api.Get(ctx, client.ObjectKeyFromObject(pod), pod))).To(BeTrue())
	})

	It("that insist on a resource version are warned instead", func(ctx context.Context) {
		pod := createPod(ctx, nil)
		version := pod.ResourceVersion
		Expect(api.Delete(ctx, pod, client.GracePeriodSeconds(5), client.Preconditions{ResourceVersion: ptr.To(version)})).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.DeletionTimestamp).NotTo(BeNil())
		Expect(warnings.take()).To(ContainElement(ContainSubstring("gracePeriodSeconds 5 is not taken")))
	})
})

// createPod creates a pod in a namespace of its own, changed before.
func createPod(ctx context.Context, change func(*dcorev1.Pod)) *dcorev1.Pod {
	GinkgoHelper()
	pod := &dcorev1.Pod{}
	pod.Namespace, pod.Name = newNamespace(ctx), "web"
	pod.Spec.Containers = []corev1.Container{{Name: "web", Image: "web", Resources: corev1.ResourceRequirements{
		Limits: corev1.ResourceList{corev1.ResourceCPU: quantity("0.1")},
	}}}
	if change != nil {
		change(pod)
	}
	Expect(api.Create(ctx, pod)).To(Succeed())
	return pod
}

func patch(ctx context.Context, object client.Object, merge string) error {
	return api.Patch(ctx, object, client.RawPatch(types.MergePatchType, []byte(merge)))
}
