package server_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray/server"
	"drayage.dev/cmd/dray/token"
	"drayage.dev/controlplane"
	"drayage.dev/internal/scheme"
)

var _ = Describe("dray server", Ordered, func() {
	var (
		info controlplane.Info
		c    client.Client
	)

	BeforeAll(func(ctx context.Context) {
		dir, err := os.MkdirTemp("", "dray-server-")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(os.RemoveAll, dir)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		ready := make(chan controlplane.Info, 1)
		done := make(chan error, 1)
		runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		go func() {
			done <- server.Run(runCtx, server.Config{ControlPlane: controlplane.Config{
				DataDir: dir, Listener: listener, Ephemeral: true,
				Ready: func(info controlplane.Info) { ready <- info },
			}})
		}()
		DeferCleanup(func() {
			stop()
			Eventually(done, 2*time.Minute).Should(Receive(BeNil()))
		})
		Eventually(ready, 2*time.Minute).Should(Receive(&info))
		c, err = client.New(info.Admin, client.Options{Scheme: scheme.New()})
		Expect(err).NotTo(HaveOccurred())
	})

	It("turns a Deployment into pods that are bound to a node", func(ctx context.Context) {
		capacity := corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}
		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		Expect(c.Create(ctx, node)).To(Succeed())
		node.Status.Capacity, node.Status.Allocatable = capacity, capacity
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
		Expect(c.Status().Update(ctx, node)).To(Succeed())

		labels := map[string]string{"app": "web"}
		deployment := &dappsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec: appsv1.DeploymentSpec{
				Replicas: ptr.To[int32](2),
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{
						Containers:  []corev1.Container{{Name: "web", Image: "web:1"}},
						Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					},
				},
			},
		}
		Expect(c.Create(ctx, deployment)).To(Succeed())
		Eventually(func(g Gomega) {
			pods := &dcorev1.PodList{}
			g.Expect(c.List(ctx, pods, client.InNamespace("default"), client.MatchingLabels(labels))).To(Succeed())
			g.Expect(pods.Items).To(HaveLen(2))
			for _, pod := range pods.Items {
				g.Expect(pod.Spec.NodeName).To(Equal("n1"))
				g.Expect(pod.Finalizers).To(ContainElement(dcorev1.NodeFinalizer))
				g.Expect(pod.Spec.DNSPolicy).To(Equal(corev1.DNSClusterFirst))
			}
		}, 2*time.Minute).Should(Succeed())
	})

	It("lets each component have its own identity", func(ctx context.Context) {
		for name, user := range map[string]string{"manager": "drayage:manager", "scheduler": "drayage:scheduler"} {
			config, err := clientcmd.BuildConfigFromFlags("", info.Kubeconfigs[name])
			Expect(err).NotTo(HaveOccurred())
			component, err := client.New(config, client.Options{Scheme: scheme.New()})
			Expect(err).NotTo(HaveOccurred())
			err = component.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
			Expect(err).To(MatchError(ContainSubstring(`User "` + user + `" cannot delete`)))
		}
	})

	It("makes, lists and deletes join tokens from the command line", func(ctx context.Context) {
		dray := func(args ...string) (string, error) {
			var out bytes.Buffer
			command := token.NewCommand()
			command.SetOut(&out)
			command.SetErr(&out)
			command.SetArgs(append(args, "--kubeconfig", info.Kubeconfigs["admin"]))
			err := command.ExecuteContext(ctx)
			return out.String(), err
		}
		line, err := dray("create", "--ttl", "1h", "--description", "for a test")
		Expect(err).NotTo(HaveOccurred())
		Expect(line).To(MatchRegexp(`^[a-z0-9]{6}\.[a-z0-9]{16}\.[0-9a-f]{64}\n$`))
		Expect(dray("list")).To(And(ContainSubstring(line[:6]), ContainSubstring("for a test"), MatchRegexp("in 5.m"), ContainSubstring("never")))
		Expect(dray("delete", line[:6])).To(Equal("token " + line[:6] + " deleted\n"))
		_, err = dray("delete", line[:6])
		Expect(err).To(MatchError(ContainSubstring("there is no such token")))
	})
})

var _ = Describe("the configuration of a server", func() {
	It("names components that exist", func(ctx context.Context) {
		err := server.Run(ctx, server.Config{Disable: []string{"kubelet"}})
		Expect(err).To(MatchError(`disabling "kubelet": there is no such component: choose of manager, scheduler`))
	})
})
