package server_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/cmd/dray/server"
	"drayage.dev/controlplane"
	"drayage.dev/internal/scheme"
)

var _ = Describe("the embedded API server", Ordered, func() {
	var (
		dir  string
		info controlplane.Info
		c    client.Client
	)

	BeforeAll(func(ctx context.Context) {
		var err error
		dir, err = os.MkdirTemp("", "dray-ops-")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(os.RemoveAll, dir)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		ready, done := make(chan controlplane.Info, 1), make(chan error, 1)
		runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		go func() {
			done <- server.Run(runCtx, server.Config{ControlPlane: controlplane.Config{
				DataDir: dir, Listener: listener, Ephemeral: true, Ready: func(info controlplane.Info) { ready <- info },
			}})
		}()
		DeferCleanup(func() { stop(); Eventually(done, 2*time.Minute).Should(Receive(BeNil())) })
		Eventually(ready, 2*time.Minute).Should(Receive(&info))
		c, err = client.New(info.Admin, client.Options{Scheme: scheme.New()})
		Expect(err).NotTo(HaveOccurred())
	})

	asUser := func(user string, groups ...string) *rest.Config {
		config, err := controlplane.IssueRESTConfig(dir, info.Admin.Host, user, groups...)
		Expect(err).NotTo(HaveOccurred())
		return config
	}
	get := func(config *rest.Config, path string) *http.Response {
		httpClient, err := rest.HTTPClientFor(config)
		Expect(err).NotTo(HaveOccurred())
		response, err := httpClient.Get(config.Host + path)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(response.Body.Close)
		return response
	}

	It("writes down who did what, and never what objects hold", func(ctx context.Context) {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "audited"}, StringData: map[string]string{"key": "hunter2-hunter2"}}
		Expect(c.Create(ctx, secret)).To(Succeed())
		Expect(c.Get(ctx, client.ObjectKeyFromObject(secret), secret)).To(Succeed())
		file := filepath.Join(dir, "server", "audit", "audit.log")
		var events []auditv1.Event
		Eventually(func(g Gomega) {
			data, err := os.ReadFile(file)
			g.Expect(err).NotTo(HaveOccurred())
			Expect(string(data)).NotTo(ContainSubstring("hunter2"))
			Expect(string(data)).NotTo(ContainSubstring("aHVudGVyMi")) // the same in base64
			events = nil
			for line := range strings.Lines(string(data)) {
				var event auditv1.Event
				g.Expect(json.Unmarshal([]byte(line), &event)).To(Succeed())
				if event.ObjectRef != nil && event.ObjectRef.Resource == "secrets" && event.ObjectRef.Name == "audited" {
					events = append(events, event)
				}
			}
			g.Expect(events).To(HaveLen(2))
		}).Should(Succeed())
		Expect(events[0].Verb).To(Equal("create"))
		Expect(events[0].User.Username).To(Equal("drayage:admin"))
		Expect(events[0].ResponseStatus.Code).To(BeEquivalentTo(http.StatusCreated))
		Expect(events[1].Verb).To(Equal("get"))
		for _, event := range events {
			Expect(event.Level).To(Equal(auditv1.LevelMetadata))
		}
		stat, err := os.Stat(file)
		Expect(err).NotTo(HaveOccurred())
		Expect(stat.Mode().Perm()).To(BeEquivalentTo(0o600))
	})

	It("keeps nodes, controllers and everybody else out of each other's queues", func(ctx context.Context) {
		levels := &flowcontrolv1.FlowSchemaList{}
		Expect(c.List(ctx, levels)).To(Succeed())
		name := map[string]string{}
		for _, schema := range levels.Items {
			name[string(schema.UID)] = schema.Name
		}
		manager, err := clientcmd.BuildConfigFromFlags("", info.Kubeconfigs["manager"])
		Expect(err).NotTo(HaveOccurred())
		node := asUser(dcorev1.NodeUserPrefix+"n1", dcorev1.NodesGroup)
		for _, each := range []struct {
			as           *rest.Config
			path, schema string
		}{
			{node, "/apis/coordination.k8s.io/v1/namespaces/" + dcorev1.NodeLeaseNamespace + "/leases/n1", "drayage-node-high"},
			{node, "/apis/core.drayage.dev/v1/nodes/n1", "drayage-node-high"},
			{node, "/apis/core.drayage.dev/v1/services", "drayage-nodes"},
			{manager, "/apis/coordination.k8s.io/v1/namespaces/drayage-system/leases/drayage-manager", "drayage-leader-election"},
			{manager, "/apis/apps.drayage.dev/v1/deployments", "drayage-controllers"},
			{asUser("somebody"), "/apis/apps.drayage.dev/v1/deployments", "global-default"},
		} {
			// The API server follows its schemas a moment later.
			Eventually(func() string {
				return name[get(each.as, each.path).Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID)]
			}).Should(Equal(each.schema), each.path)
		}
	})

	It("shows the metrics of all that runs in its process, to who may see them", func(ctx context.Context) {
		body := func() string {
			response := get(info.Admin, "/metrics")
			Expect(response.StatusCode).To(Equal(http.StatusOK))
			data, err := io.ReadAll(response.Body)
			Expect(err).NotTo(HaveOccurred())
			return string(data)
		}
		Eventually(body).Should(And(
			ContainSubstring("\napiserver_request_total{"), ContainSubstring("\nscheduler_pending_pods{"),
			ContainSubstring(`controller="replicaset"`), ContainSubstring("\napiserver_flowcontrol_"), ContainSubstring("\nrest_client_requests_total{"),
		))
		Expect(get(asUser("somebody"), "/metrics").StatusCode).To(Equal(http.StatusForbidden))
		Expect(get(asUser("somebody"), "/debug/pprof/").StatusCode).To(Equal(http.StatusForbidden))
		Expect(get(info.Admin, "/debug/pprof/heap").StatusCode).To(Equal(http.StatusOK))
	})

	It("ends a pod's token with the pod", func(ctx context.Context) {
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "caller"}}
		pod.Spec = corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}
		Eventually(func() error { return c.Create(ctx, pod) }).Should(Succeed())
		node := asUser(dcorev1.NodeUserPrefix+"n1", dcorev1.NodesGroup)
		body, err := json.Marshal(subresourcesv1alpha1.PodTokenRequest{Pod: subresourcesv1alpha1.PodIdentity{Namespace: "default", Name: "caller", UID: pod.UID}})
		Expect(err).NotTo(HaveOccurred())
		httpClient, err := rest.HTTPClientFor(node)
		Expect(err).NotTo(HaveOccurred())
		response, err := httpClient.Post(node.Host+"/apis/subresources.drayage.dev/v1alpha1/nodes/n1/podtokens", "application/json", strings.NewReader(string(body)))
		Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		Expect(response.StatusCode).To(Equal(http.StatusCreated))
		token := &authenticationv1.TokenRequest{}
		Expect(json.NewDecoder(response.Body).Decode(token)).To(Succeed())
		known := func() bool {
			review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}
			Expect(c.Create(ctx, review)).To(Succeed())
			return review.Status.Authenticated
		}
		Expect(known()).To(BeTrue())
		pod.Finalizers = nil
		Expect(c.Patch(ctx, pod, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))).To(Succeed())
		Expect(client.IgnoreNotFound(c.Delete(ctx, pod, client.GracePeriodSeconds(0)))).To(Succeed())
		// What was authenticated just before is remembered for ten seconds.
		Eventually(known).Should(BeFalse())
	})
})
