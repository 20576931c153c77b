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
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray-scheduler/app"
	"drayage.dev/test/env"
)

const patience = 2 * time.Minute

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

	It("serves metrics and profiles over TLS to who may get these URLs", func(ctx context.Context) {
		address := freeAddress()
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		config := app.Config{RESTConfig: e.Config}
		config.Diagnostics.SecureAddress, config.Diagnostics.ClientCAFile = address, e.Info.CAFile
		go func() { done <- app.Run(ctx, config) }()
		DeferCleanup(func() { cancel(); Eventually(done, patience).Should(Receive(BeNil())) })
		ask := func(who *rest.Config, path string) int {
			who.Host, who.TLSClientConfig.CAFile, who.TLSClientConfig.Insecure = "https://"+address, "", true
			httpClient, err := rest.HTTPClientFor(who)
			Expect(err).NotTo(HaveOccurred())
			response, err := httpClient.Get(who.Host + path)
			if err != nil {
				return 0
			}
			defer response.Body.Close()
			return response.StatusCode
		}
		Eventually(func() int { return ask(&rest.Config{}, "/healthz") }, patience).Should(Equal(http.StatusOK))
		Expect(ask(&rest.Config{}, "/metrics")).To(Equal(http.StatusUnauthorized))
		Expect(ask(&rest.Config{BearerToken: "made-up"}, "/debug/pprof/")).To(Equal(http.StatusUnauthorized))

		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "prometheus"}}
		Expect(admin.Create(ctx, account)).To(Succeed())
		token := &authenticationv1.TokenRequest{}
		Expect(admin.SubResource("token").Create(ctx, account, token)).To(Succeed())
		prometheus := func() *rest.Config { return &rest.Config{BearerToken: token.Status.Token} }
		Expect(ask(prometheus(), "/metrics")).To(Equal(http.StatusForbidden))
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "scraper"}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}}
		Expect(admin.Create(ctx, role)).To(Succeed())
		Expect(admin.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "scraper"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "scraper"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "prometheus"}},
		})).To(Succeed())
		Eventually(func() int { return ask(prometheus(), "/metrics") }, patience).Should(Equal(http.StatusOK))
		Expect(ask(prometheus(), "/debug/pprof/heap")).To(Equal(http.StatusForbidden))

		Expect(ask(rest.CopyConfig(e.Config), "/debug/pprof/heap")).To(Equal(http.StatusOK), "the administrator's certificate")
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

	It("follows a configuration that was made for kube-scheduler", func(ctx context.Context) {
		file := filepath.Join(GinkgoT().TempDir(), "scheduler.yaml")
		Expect(os.WriteFile(file, []byte(existing), 0o600)).To(Succeed())
		address := freeAddress()
		stop := start(app.Config{ConfigFile: file, ListenAddress: address})
		for _, profile := range []string{"default-scheduler", "bin-packing", "no-scoring"} {
			pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "by-" + profile}}
			pod.Spec = corev1.PodSpec{SchedulerName: profile, Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}
			Expect(admin.Create(ctx, pod)).To(Succeed())
			Eventually(func(g Gomega) {
				g.Expect(admin.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
				g.Expect(pod.Spec.NodeName).To(Equal("node-1"))
			}, patience).Should(Succeed())
			// The metric is counted behind the binding.
			Eventually(func() string { _, body := get(address, "/metrics"); return body }, patience).
				Should(ContainSubstring(`scheduler_schedule_attempts_total{profile="` + profile + `",result="scheduled"} `))
		}
		Expect(stop()).To(Succeed())
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
		Expect(app.Run(ctx, app.Config{RESTConfig: e.Config, AgentPatience: -time.Second})).To(MatchError(ContainSubstring("cannot have -1s")))
	})
})

// existing uses what such files use: connection and election of another cluster, profiles, plugins by extension point
// and by multiPoint, arguments, weights.
const existing = `
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: /etc/kubernetes/scheduler.conf, qps: 100, burst: 200}
leaderElection: {leaderElect: true, resourceNamespace: kube-system, resourceName: kube-scheduler}
parallelism: 8
percentageOfNodesToScore: 50
podInitialBackoffSeconds: 1
podMaxBackoffSeconds: 5
profiles:
- schedulerName: default-scheduler
  pluginConfig:
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints:
      - {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway}
- schedulerName: bin-packing
  plugins:
    score:
      disabled: [{name: NodeResourcesBalancedAllocation}]
      enabled: [{name: NodeResourcesFit, weight: 5}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: memory, weight: 1}]
        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}
- schedulerName: no-scoring
  plugins:
    preScore: {disabled: [{name: "*"}]}
    score: {disabled: [{name: "*"}]}
`

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
