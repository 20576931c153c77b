package e2e_test

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

const tool = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: tool, labels: {app: tool}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: tool
    image: busybox
    command: ["sh", "-c", "echo hello from $POD; sleep infinity"]
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SSL_CERT_FILE, value: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt}
`

var _ = Describe("clients", func() {
	var namespace string
	BeforeEach(func(ctx SpecContext) {
		namespace = newNamespace(ctx, c)
	})
	kubectl := func(ctx SpecContext, args ...string) string {
		GinkgoHelper()
		out, err := c.Kubectl(ctx, append(args, "-n", namespace)...)
		Expect(err).NotTo(HaveOccurred())
		return out
	}

	It("serve kubectl", func(ctx SpecContext) {
		apply(ctx, c, namespace, web)
		Expect(kubectl(ctx, "wait", "ddeploy/web", "--for=condition=Available", "--timeout=3m")).To(ContainSubstring("condition met"))
		Expect(kubectl(ctx, "get", "pods")).To(And(
			MatchRegexp(`NAME +READY +STATUS +RESTARTS +AGE`), MatchRegexp(`web-\S+ +1/1 +Running +0 +`)))
		Expect(kubectl(ctx, "get", "deployments")).To(And(
			MatchRegexp(`NAME +READY +UP-TO-DATE +AVAILABLE +AGE`), MatchRegexp(`web +3/3 +3 +3 +`)))
		Expect(kubectl(ctx, "get", "replicasets")).To(MatchRegexp(`web-\S+ +3 +3 +3 +`))
		Expect(kubectl(ctx, "get", "services")).To(MatchRegexp(`web +ClusterIP +10\.96\.\d+\.\d+ +<none> +80/TCP +`))
		Expect(kubectl(ctx, "get", "nodes")).To(MatchRegexp(`n1 +Ready +<none> +`))
		Expect(kubectl(ctx, "get", "drayage")).To(ContainSubstring("deployment.apps.drayage.dev/web"))
		Eventually(func() string { return kubectl(ctx, "describe", "ddeploy", "web") }).Should(ContainSubstring("ScalingReplicaSet"))
		Expect(kubectl(ctx, "explain", "pods.spec.containers")).To(ContainSubstring("core.drayage.dev"))
		Expect(kubectl(ctx, "scale", "ddeploy/web", "--replicas=2")).To(ContainSubstring("scaled"))
		readyPods(ctx, c, namespace, labels.Set{"app": "web"}, 2)
		Expect(kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-f", file(web))).To(ContainSubstring("serverside-applied"))
		Expect(kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-f", file(web))).To(ContainSubstring("serverside-applied"))
		readyPods(ctx, c, namespace, labels.Set{"app": "web"}, 3)
		Expect(kubectl(ctx, "delete", "ddeploy", "web", "--timeout=3m")).To(ContainSubstring("deleted"))
		Eventually(func() []dcorev1.Pod { return all(ctx, namespace) }).Should(BeEmpty())
	}, SpecTimeout(10*time.Minute))

	It("read logs and run commands", func(ctx SpecContext) {
		apply(ctx, c, namespace, tool)
		readyPods(ctx, c, namespace, labels.Set{"app": "tool"}, 1)
		Eventually(func() (string, error) { return c.Dray(ctx, "logs", "tool", "-n", namespace) }).Should(Equal("hello from tool\n"))
		Expect(execIn(ctx, c, namespace, "tool", "tool", "sh", "-c", "echo $POD; hostname")).To(Equal("tool\ntool\n"))
		_, err := c.Dray(ctx, "exec", "tool", "-n", namespace, "--", "sh", "-c", "exit 7")
		Expect(err).To(MatchError(ContainSubstring("exit status 7")))
		_, err = c.Dray(ctx, "logs", "absent", "-n", namespace)
		Expect(err).To(MatchError(ContainSubstring(`"absent" not found`)))

		By("the names of services and of the API server resolve, and so does nothing else of the cluster")
		Expect(execIn(ctx, c, namespace, "tool", "tool", "nslookup", "kubernetes.default")).To(Equal("10.96.0.1\n"))
		Expect(execIn(ctx, c, namespace, "tool", "tool", "cat", "/etc/resolv.conf")).To(ContainSubstring(namespace + ".svc.cluster.local svc.cluster.local cluster.local"))
		_, err = c.Dray(ctx, "exec", "tool", "-n", namespace, "--", "nslookup", "absent.default.svc.cluster.local")
		Expect(err).To(HaveOccurred())

		By("the API server answers there, and its certificate is the cluster's")
		Expect(execIn(ctx, c, namespace, "tool", "tool", "wget", "-qO-", "https://kubernetes.default.svc/version")).To(ContainSubstring("gitVersion"))

		By("a pod whose grace period is cut short is gone soon")
		_, err = c.Dray(ctx, "delete", "dpo", "tool", "-n", namespace, "--grace-period=0", "--force")
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() []dcorev1.Pod { return all(ctx, namespace) }).Should(BeEmpty())
	}, SpecTimeout(10*time.Minute))

	DescribeTable("refuse bad input with upstream's message, and store nothing",
		func(ctx SpecContext, replace, by, message string) {
			_, err := c.Kubectl(ctx, "create", "-n", namespace, "-f", file(replaceOnce(tool, replace, by)))
			Expect(err).To(MatchError(ContainSubstring(message)))
			Expect(all(ctx, namespace)).To(BeEmpty())
		},
		Entry("unknown field", "command:", "comand:", `unknown field "spec.containers[0].comand"`),
		Entry("wrong type", "terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: soon", "terminationGracePeriodSeconds"),
		Entry("unimplemented field", "  containers:", "  volumes: [{name: v, persistentVolumeClaim: {claimName: x}}]\n  containers:", "spec.volumes[0].persistentVolumeClaim"),
		Entry("duplicate container", "  containers:", "  containers:\n  - {name: tool, image: busybox}", `spec.containers[1].name: Duplicate value: "tool"`),
		Entry("mount without volume", "    image: busybox", "    image: busybox\n    volumeMounts: [{name: nowhere, mountPath: /x}]", `spec.containers[0].volumeMounts[0].name: Not found: "nowhere"`),
	)

	It("tell what a pod waits for, and let it recover when the cause goes", func(ctx SpecContext) {
		apply(ctx, c, namespace, replaceOnce(tool, "    - {name: POD,", "    - {name: LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: level}}}\n    - {name: POD,"))
		waiting := func(reason, message string) {
			GinkgoHelper()
			Eventually(func(g Gomega) {
				pod := &dcorev1.Pod{}
				g.Expect(c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "tool"}, pod)).To(Succeed())
				g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
				state := pod.Status.ContainerStatuses[0].State.Waiting
				g.Expect(state).NotTo(BeNil())
				g.Expect(state.Reason).To(Equal(reason))
				g.Expect(state.Message).To(ContainSubstring(message))
				g.Expect(pod.Status.Summary.Status).To(Equal(reason))
			}).Should(Succeed())
		}
		waiting("CreateContainerConfigError", `"settings" not found`)
		settings := &corev1.ConfigMap{Data: map[string]string{"other": "x"}}
		settings.Name, settings.Namespace = "settings", namespace
		Expect(c.Client.Create(ctx, settings)).To(Succeed())
		waiting("CreateContainerConfigError", "level")
		expectEvent(ctx, c, namespace, "Failed", "level")
		settings.Data = map[string]string{"level": "info"}
		Expect(c.Client.Update(ctx, settings)).To(Succeed())
		readyPods(ctx, c, namespace, labels.Set{"app": "tool"}, 1)
	}, SpecTimeout(10*time.Minute))

	It("tell that a command does not exist", func(ctx SpecContext) {
		apply(ctx, c, namespace, replaceOnce(tool, `["sh", "-c", "echo hello from $POD; sleep infinity"]`, `["no-such-command"]`))
		Eventually(func(g Gomega) {
			pod := &dcorev1.Pod{}
			g.Expect(c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "tool"}, pod)).To(Succeed())
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
			g.Expect(pod.Status.Summary.Status).To(BeElementOf("RunContainerError", "CrashLoopBackOff"))
		}).Should(Succeed())
		expectEvent(ctx, c, namespace, "Failed", "no-such-command")
	}, SpecTimeout(10*time.Minute))

	It("tell that a probe never answers", func(ctx SpecContext) {
		apply(ctx, c, namespace, replaceOnce(tool, "    env:", "    readinessProbe: {tcpSocket: {port: 9}, periodSeconds: 1}\n    env:"))
		expectEvent(ctx, c, namespace, "Unhealthy", "Readiness probe failed")
		Eventually(func() string {
			return pods(ctx, c, namespace, labels.Set{"app": "tool"})[0].Status.Summary.Ready
		}).Should(Equal("0/1"))
	}, SpecTimeout(10*time.Minute))
})
