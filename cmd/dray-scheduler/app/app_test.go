package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray-scheduler/app"
	"drayage.dev/test/env"
)

const patience = 40 * time.Second

var _ = Describe("the scheduler's process", Ordered, func() {
	var (
		e     *env.Env
		admin client.Client
	)

	BeforeAll(func(ctx context.Context) {
		var err error
		e, err = env.Start(context.WithoutCancel(ctx))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
		admin, err = e.Client()
		Expect(err).NotTo(HaveOccurred())
		room := corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("10"),
		}
		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
		Expect(admin.Create(ctx, node)).To(Succeed())
		node.Status.Allocatable = room
		node.Status.Summary = dcorev1.NodeSummary{Status: "Ready"}
		Expect(admin.Status().Update(ctx, node)).To(Succeed())
	})

	start := func(config app.Config) (stop func() error) {
		config.Kubeconfig = filepath.Join(e.DataDir, "server/kubeconfig/scheduler.conf")
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- app.Run(ctx, config) }()
		DeferCleanup(cancel)
		return func() error {
			cancel()
			var err error
			Eventually(done, patience).Should(Receive(&err))
			return err
		}
	}
	place := func(ctx context.Context, name string) {
		GinkgoHelper()
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		pod.Spec = corev1.PodSpec{
			SchedulerName: dcorev1.SchedulerName, Containers: []corev1.Container{{Name: "web", Image: "web:1"}},
		}
		Expect(admin.Create(ctx, pod)).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(admin.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
			g.Expect(pod.Spec.NodeName).To(Equal("node-1"))
		}, patience).Should(Succeed())
	}

	It("serves health and upstream's metrics", func(ctx context.Context) {
		address := freeAddress()
		stop := start(app.Config{ListenAddress: address})
		Eventually(func() int { status, _ := get(address, "/readyz"); return status }, patience).Should(Equal(http.StatusOK))
		place(ctx, "metered")
		Eventually(func() string { _, body := get(address, "/metrics"); return body }, patience).
			Should(ContainSubstring(`scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 1`))
		Expect(stop()).To(Succeed())
		_, err := net.Dial("tcp", address)
		Expect(err).To(HaveOccurred())
	})

	It("lets one of two schedule, and the other take over", func(ctx context.Context) {
		config := app.Config{LeaderElect: true, LeaseNamespace: "drayage-system"}
		holder := func() string {
			lease := &coordinationv1.Lease{}
			if err := admin.Get(ctx, client.ObjectKey{Namespace: "drayage-system", Name: "dray-scheduler"}, lease); err != nil || lease.Spec.HolderIdentity == nil {
				return ""
			}
			return *lease.Spec.HolderIdentity
		}
		stopFirst := start(config)
		Eventually(holder, patience).ShouldNot(BeEmpty())
		first := holder()
		stopSecond := start(config)
		place(ctx, "first")
		Expect(holder()).To(Equal(first))
		Expect(stopFirst()).To(Succeed())
		Eventually(holder, patience).ShouldNot(Or(BeEmpty(), Equal(first)))
		place(ctx, "second")
		Expect(stopSecond()).To(Succeed())
	})

	It("refuses a configuration that it cannot follow, by name", func(ctx context.Context) {
		file := filepath.Join(GinkgoT().TempDir(), "scheduler.yaml")
		write := func(text string) {
			Expect(os.WriteFile(file, []byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"+text), 0o600)).To(Succeed())
		}
		config := app.Config{RESTConfig: e.Config, ConfigFile: file}
		write("profils: []\n")
		Expect(app.Run(ctx, config)).To(MatchError(ContainSubstring(`unknown field "profils"`)))
		write("parallelism: -1\n")
		Expect(app.Run(ctx, config)).To(MatchError(ContainSubstring("parallelism")))
		write("profiles: [{schedulerName: mine, plugins: {score: {enabled: [{name: Missing}]}}}]\n")
		Expect(app.Run(ctx, config)).To(MatchError(ContainSubstring("Missing")))
		config.ConfigFile = file + ".none"
		Expect(app.Run(ctx, config)).To(MatchError(ContainSubstring("reading the scheduler configuration")))
		Expect(app.Run(ctx, app.Config{})).To(MatchError(ContainSubstring("--kubeconfig")))
	})
})

func freeAddress() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer listener.Close()
	return listener.Addr().String()
}

func get(address, path string) (int, string) {
	response, err := http.Get(fmt.Sprintf("http://%s%s", address, path))
	if err != nil {
		return 0, ""
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}
