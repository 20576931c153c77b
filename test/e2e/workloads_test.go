package e2e_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/changes"
	"drayage.dev/test/cluster"
)

const web = `
apiVersion: apps.drayage.dev/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  progressDeadlineSeconds: 10
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: my-app:1.0
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
`

var _ = Describe("workloads", func() {
	var namespace string
	webLabels := labels.Set{"app": "web"}

	BeforeEach(func(ctx SpecContext) {
		namespace = newNamespace(ctx, c)
		apply(ctx, c, namespace, web)
		available(ctx, c, namespace, "web")
	}, NodeTimeout(10*time.Minute))

	It("scale up and down", func(ctx SpecContext) {
		_, err := c.Kubectl(ctx, "scale", "ddeploy/web", "--replicas=10", "-n", namespace)
		Expect(err).NotTo(HaveOccurred())
		readyPods(ctx, c, namespace, webLabels, 10)
		_, err = c.Kubectl(ctx, "scale", "ddeploy/web", "--replicas=2", "-n", namespace)
		Expect(err).NotTo(HaveOccurred())
		readyPods(ctx, c, namespace, webLabels, 2)
		Eventually(func() int { return len(all(ctx, namespace)) }).Should(Equal(2), "terminated pods go")
	}, SpecTimeout(10*time.Minute))

	It("roll out without ever showing fewer than the desired number ready, and roll back", func(ctx SpecContext) {
		lowest, done := watchReady(ctx, c, namespace, webLabels)
		_, err := c.Kubectl(ctx, "patch", "ddeploy/web", "-n", namespace, "--type=json",
			`-p=[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"my-app:2.0"}]`)
		Expect(err).NotTo(HaveOccurred())
		out, err := c.Dray(ctx, "rollout", "status", "deployment/web", "-n", namespace, "--timeout=3m")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(ContainSubstring(`successfully rolled out`))
		for _, pod := range readyPods(ctx, c, namespace, webLabels, 3) {
			Expect(pod.Spec.Containers[0].Image).To(Equal("my-app:2.0"))
		}

		_, err = c.Dray(ctx, "rollout", "undo", "deployment/web", "-n", namespace)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func(g Gomega) {
			live := pods(ctx, c, namespace, webLabels)
			g.Expect(live).To(HaveLen(3))
			for i := range live {
				g.Expect(live[i].Spec.Containers[0].Image).To(Equal("my-app:1.0"))
				g.Expect(ready(&live[i])).To(BeTrue())
			}
		}).Should(Succeed())
		done()
		Expect(lowest.Load()).To(BeNumerically(">=", 3), "ready pods during the rollouts")

		out, err = c.Dray(ctx, "rollout", "history", "deployment/web", "-n", namespace)
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(And(ContainSubstring("2"), ContainSubstring("3")))
	}, SpecTimeout(10*time.Minute))

	It("stall on a bad image while the old pods go on serving", func(ctx SpecContext) {
		_, err := c.Kubectl(ctx, "patch", "ddeploy/web", "-n", namespace, "--type=json",
			`-p=[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"my-app:never-built"}]`)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func(g Gomega) {
			deployment := &dappsv1.Deployment{}
			g.Expect(c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "web"}, deployment)).To(Succeed())
			g.Expect(deployment.Status.Conditions).To(ContainElement(And(
				HaveField("Type", appsv1.DeploymentProgressing), HaveField("Status", corev1.ConditionFalse),
				HaveField("Reason", "ProgressDeadlineExceeded"))))
		}).Should(Succeed())
		_, err = c.Dray(ctx, "rollout", "status", "deployment/web", "-n", namespace)
		Expect(err).To(MatchError(ContainSubstring("exceeded its progress deadline")))

		By("the pod names the image in its state and in an event")
		Eventually(func(g Gomega) {
			waiting := 0
			for _, pod := range pods(ctx, c, namespace, webLabels) {
				if pod.Spec.Containers[0].Image == "my-app:never-built" {
					g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
					state := pod.Status.ContainerStatuses[0].State.Waiting
					g.Expect(state).NotTo(BeNil())
					g.Expect(state.Reason).To(BeElementOf("ErrImagePull", "ImagePullBackOff"))
					g.Expect(state.Message).To(ContainSubstring("my-app:never-built"))
					waiting++
				}
			}
			g.Expect(waiting).To(Equal(1))
		}).Should(Succeed())
		expectEvent(ctx, c, namespace, "Failed", "my-app:never-built")

		service := &dcorev1.Service{}
		Expect(c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "web"}, service)).To(Succeed())
		for range 10 {
			Expect(getNow(c.Nodes[0], "http://"+service.Spec.ClusterIP)).To(ContainSubstring("my-app:1.0"))
		}
	}, SpecTimeout(10*time.Minute))

	It("replace a pod that is deleted, and withdraw it before it ends", func(ctx SpecContext) {
		victim, service := pods(ctx, c, namespace, webLabels)[0], &dcorev1.Service{}
		Expect(c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "web"}, service)).To(Succeed())
		get(c.Nodes[0], "http://"+service.Spec.ClusterIP)
		_, err := c.Dray(ctx, "delete", "dpo", victim.Name, "-n", namespace, "--wait=false")
		Expect(err).NotTo(HaveOccurred())
		for range 50 {
			Expect(getNow(c.Nodes[0], "http://"+service.Spec.ClusterIP)).NotTo(BeEmpty())
		}
		for _, pod := range readyPods(ctx, c, namespace, webLabels, 3) {
			Expect(pod.UID).NotTo(Equal(victim.UID))
		}
	}, SpecTimeout(10*time.Minute))

	It("restart a container whose process ended, and count", func(ctx SpecContext) {
		pod := pods(ctx, c, namespace, webLabels)[0]
		response, err := c.Nodes[0].HTTPClient().Post("http://"+pod.Status.PodIP+":8080/exit/3", "", nil)
		if err == nil {
			response.Body.Close()
		}
		Eventually(func(g Gomega) {
			current := &dcorev1.Pod{}
			g.Expect(c.Client.Get(ctx, client.ObjectKeyFromObject(&pod), current)).To(Succeed())
			status := current.Status.ContainerStatuses[0]
			g.Expect(status.RestartCount).To(BeEquivalentTo(1))
			g.Expect(status.LastTerminationState.Terminated).NotTo(BeNil())
			g.Expect(status.LastTerminationState.Terminated.ExitCode).To(BeEquivalentTo(3))
			g.Expect(ready(current)).To(BeTrue())
			g.Expect(current.Status.Summary.Restarts).To(HavePrefix("1"))
		}).Should(Succeed())
		previous, err := c.Dray(ctx, "logs", pod.Name, "-n", namespace, "--previous")
		Expect(err).NotTo(HaveOccurred())
		Expect(previous).To(ContainSubstring("serves on"))
	}, SpecTimeout(10*time.Minute))
})

func all(ctx context.Context, namespace string) []dcorev1.Pod {
	GinkgoHelper()
	list := &dcorev1.PodList{}
	Expect(c.Client.List(ctx, list, client.InNamespace(namespace))).To(Succeed())
	return list.Items
}

// watchReady follows the number of ready pods event by event and remembers the lowest, until done is
// called.
func watchReady(ctx context.Context, on *cluster.Cluster, namespace string, selector labels.Set) (lowest *atomic.Int64, done func()) {
	GinkgoHelper()
	list := &dcorev1.PodList{}
	watcher, err := changes.Of(ctx, on.Client, list, client.InNamespace(namespace), client.MatchingLabels(selector))
	Expect(err).NotTo(HaveOccurred())
	state := map[string]bool{}
	count := func() (n int64) {
		for _, r := range state {
			if r {
				n++
			}
		}
		return n
	}
	for i := range list.Items {
		state[list.Items[i].Name] = ready(&list.Items[i]) && list.Items[i].DeletionTimestamp == nil
	}
	lowest = &atomic.Int64{}
	lowest.Store(count())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer GinkgoRecover()
		for event := range watcher.ResultChan() {
			pod, isPod := event.Object.(*dcorev1.Pod)
			Expect(isPod).To(BeTrue(), "%v", event.Object)
			state[pod.Name] = ready(pod) && pod.DeletionTimestamp == nil
			lowest.Store(min(lowest.Load(), count()))
		}
	}()
	return lowest, func() {
		watcher.Stop()
		<-ended
	}
}

// expectEvent waits for an event with a reason whose message contains text.
func expectEvent(ctx context.Context, on *cluster.Cluster, namespace, reason, text string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		events := &corev1.EventList{}
		g.Expect(on.Client.List(ctx, events, client.InNamespace(namespace))).To(Succeed())
		var seen []string
		for _, event := range events.Items {
			seen = append(seen, fmt.Sprintf("%s: %s", event.Reason, event.Message))
		}
		g.Expect(seen).To(ContainElement(And(HavePrefix(reason+": "), ContainSubstring(text))))
	}).Should(Succeed())
}
