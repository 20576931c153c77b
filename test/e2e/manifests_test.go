package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

// What a container sees is asked of its application, over HTTP.
var _ = Describe("the users' manifests", func() {
	It("run the shop", func(ctx SpecContext) {
		namespace := newNamespace(ctx, c)
		apply(ctx, c, namespace, convert(ctx, c, manifest("shop/config.yaml")))
		apply(ctx, c, namespace, convert(ctx, c, manifest("shop/deployment.yaml")))
		apply(ctx, c, namespace, convert(ctx, c, serviceOnly(manifest("shop/service.yaml"))))

		available(ctx, c, namespace, "myapp")
		pod := readyPods(ctx, c, namespace, labels.Set{"app": "myapp"}, 3)[0]
		address := "http://" + pod.Status.PodIP + ":8080"

		By("environment from fields, ConfigMap and Secret")
		env := map[string]string{}
		Expect(json.Unmarshal([]byte(get(c.Nodes[0], address+"/env")), &env)).To(Succeed())
		Expect(env).To(And(
			HaveKeyWithValue("POD_NAME", pod.Name),
			HaveKeyWithValue("POD_NAMESPACE", namespace),
			HaveKeyWithValue("NODE_NAME", c.Nodes[0].Name),
			HaveKeyWithValue("DB_USER", "myapp"),
			HaveKeyWithValue("API_KEY", "${API_KEY}"),
		))

		By("files of the ConfigMap")
		Expect(get(c.Nodes[0], address+"/file?path=/app/config/application.properties")).To(ContainSubstring("server.port=8080"))
		Expect(get(c.Nodes[0], address+"/file?path=/app/config/nginx.conf")).To(ContainSubstring("worker_connections"))

		By("user and groups, read in the container")
		ids := struct {
			UID, GID int
			Groups   []int
		}{}
		Expect(json.Unmarshal([]byte(get(c.Nodes[0], address+"/ids")), &ids)).To(Succeed())
		Expect(ids.UID).To(Equal(1000))
		Expect(ids.GID).To(Equal(3000))
		Expect(ids.Groups).To(ContainElement(2000))

		By("limits, read from the cgroup")
		Expect(cgroupValues(c.Nodes[0].CgroupRoot, pod, "memory/memory.limit_in_bytes", "memory.max")).To(HaveEach("536870912"))
		Expect(cgroupValues(c.Nodes[0].CgroupRoot, pod, "cpu/cpu.cfs_quota_us", "cpu.max")).To(HaveEach(HavePrefix("50000")))

		By("the service, from the node, spread over the pods unless affinity keeps a client")
		service := &dcorev1.Service{}
		Eventually(func(g Gomega) {
			g.Expect(c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "myapp"}, service)).To(Succeed())
			g.Expect(service.Status.LoadBalancer.Ingress).NotTo(BeEmpty())
		}).Should(Succeed())
		Expect(service.Status.LoadBalancer.Ingress[0].IP).To(Equal(c.Nodes[0].Address.String()))
		first := podOf(get(c.Nodes[0], "http://"+service.Spec.ClusterIP))
		for range 5 {
			Expect(podOf(get(c.Nodes[0], "http://"+service.Spec.ClusterIP))).To(Equal(first), "ClientIP affinity")
		}
		Expect(get(c.Nodes[0], "http://"+service.Status.LoadBalancer.Ingress[0].IP)).NotTo(BeEmpty())
	}, SpecTimeout(10*time.Minute))

	It("run the basics", func(ctx SpecContext) {
		namespace := newNamespace(ctx, c)
		for _, name := range []string{"config", "pod", "deployment", "resources"} {
			apply(ctx, c, namespace, convert(ctx, c, manifest("basics/"+name+".yaml")))
		}
		for _, name := range []string{"app-with-config", "my-app-deployment", "resource-managed-app"} {
			available(ctx, c, namespace, name)
		}
		app := readyPods(ctx, c, namespace, labels.Set{"app": "app-with-config"}, 2)[0]
		address := "http://" + app.Status.PodIP + ":8080"
		env := map[string]string{}
		Expect(json.Unmarshal([]byte(get(c.Nodes[0], address+"/env")), &env)).To(Succeed())
		Expect(env).To(And(
			HaveKeyWithValue("DATABASE_URL", "postgres://myuser:mypassword@db.example.com:5432/app"),
			HaveKeyWithValue("LOG_LEVEL", "info"),
		))
		Expect(get(c.Nodes[0], address+"/file?path=/app/secrets/username")).To(Equal("myuser"))
		Expect(get(c.Nodes[0], address+"/file?path=/app/config/app.properties")).To(ContainSubstring("cache.ttl=300"))

		readyPods(ctx, c, namespace, labels.Set{"app": "my-app", "version": "v1"}, 1)
		for _, pod := range readyPods(ctx, c, namespace, labels.Set{"app": "resource-managed-app"}, 3) {
			Expect(pod.Spec.Priority).To(HaveValue(BeEquivalentTo(1000000)))
		}

		service := &dcorev1.Service{}
		Expect(c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "my-app-service"}, service)).To(Succeed())
		seen := map[string]bool{}
		Eventually(func() int {
			seen[podOf(get(c.Nodes[0], "http://"+service.Spec.ClusterIP))] = true
			return len(seen)
		}).Should(Equal(4), "the service reaches the three pods of the deployment and the single one of its label")
	}, SpecTimeout(10*time.Minute))

	It("run the patterns", func(ctx SpecContext) {
		namespace := newNamespace(ctx, c)
		for _, name := range []string{"sidecar", "adapter", "ambassador", "init"} {
			apply(ctx, c, namespace, convert(ctx, c, manifest("patterns/"+name+".yaml")))
		}
		node := c.Nodes[0]
		address := func(app string) (string, dcorev1.Pod) {
			available(ctx, c, namespace, app)
			pod := readyPods(ctx, c, namespace, labels.Set{"app": app}, 1)[0]
			return "http://" + pod.Status.PodIP, pod
		}

		By("sidecar: the shipper prints what the application writes to their volume")
		sidecar, pod := address("app-with-sidecar")
		get(node, sidecar+":8080/")
		Eventually(func() (string, error) {
			return c.Dray(ctx, "logs", "-n", namespace, pod.Name, "-c", "log-shipper")
		}).Should(ContainSubstring("request from "))

		By("adapter: both containers answer on their ports")
		adapter, _ := address("app-with-adapter")
		Expect(get(node, adapter+":9090/metrics")).To(ContainSubstring("demo_http_requests_total"))
		Expect(get(node, adapter+":8080/health")).To(ContainSubstring("true"))

		By("ambassador: reached on localhost")
		ambassador, _ := address("app-with-proxy")
		Expect(get(node, ambassador+":8080/dial?addr=localhost:5432")).To(ContainSubstring("proxy for production-db.example.com:5432"))

		By("init containers: in order, their file is there")
		initialised, pod := address("app-with-init")
		Expect(get(node, initialised+":8080/file?path=/app/generated/generated.properties")).To(Equal("ready=1\n"))
		statuses := pod.Status.InitContainerStatuses
		Expect(statuses).To(HaveLen(2))
		for _, status := range statuses {
			Expect(status.State.Terminated).NotTo(BeNil())
			Expect(status.State.Terminated.ExitCode).To(BeZero())
		}

		By("init containers: the next one waits for a slow one")
		apply(ctx, c, namespace, inOrder)
		ordered := readyPods(ctx, c, namespace, labels.Set{"app": "in-order"}, 1)[0].Status.InitContainerStatuses
		Expect(ordered[1].RestartCount).To(BeZero(), "the second found what the first had made")
		Expect(ordered[1].State.Terminated).To(HaveValue(HaveField("ExitCode", BeZero())))
	}, SpecTimeout(10*time.Minute))

	It("run services that call each other by name", func(ctx SpecContext) {
		// The manifest brings its own namespace "backend" and leaves order-service in the current one.
		namespace := newNamespace(ctx, c)
		converted := convert(ctx, c, manifest("traffic/backend.yaml"))
		backend, here := split(converted, "backend")
		DeferCleanup(func(ctx SpecContext) {
			_, err := c.Kubectl(ctx, "delete", "namespace", "backend", "--timeout=3m")
			Expect(err).NotTo(HaveOccurred())
		}, NodeTimeout(10*time.Minute))
		apply(ctx, c, "backend", backend)
		apply(ctx, c, namespace, here)

		available(ctx, c, "backend", "user-service")
		available(ctx, c, namespace, "order-service")
		pod := readyPods(ctx, c, namespace, labels.Set{"app": "order-service"}, 2)[0]
		Eventually(func() (string, error) {
			return tryGet(c.Nodes[0], "http://"+pod.Status.PodIP+":8080/fetch?env=USER_SERVICE_URL")
		}).Should(ContainSubstring("user-service"))
	}, SpecTimeout(10*time.Minute))
})

const inOrder = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: in-order, labels: {app: in-order}}
spec:
  initContainers:
  - {name: slow, image: busybox, command: ["sh", "-c", "sleep 2 && touch /work/made"], volumeMounts: [{name: work, mountPath: /work}]}
  - {name: next, image: busybox, command: ["cat", "/work/made"], volumeMounts: [{name: work, mountPath: /work}]}
  containers:
  - {name: web, image: "my-app:1.0"}
  volumes: [{name: work, emptyDir: {}}]
`

// serviceOnly leaves the Service of a file whose second document has no counterpart yet.
func serviceOnly(text string) string {
	first, _, _ := strings.Cut(text, "\n---\n")
	return first
}

// split separates the documents that are in a namespace, or are it, from the others.
func split(text, namespace string) (in, others string) {
	for document := range strings.SplitSeq(text, "---\n") {
		if strings.Contains(document, "namespace: "+namespace) || strings.Contains(document, "kind: Namespace") {
			in += "---\n" + document
		} else {
			others += "---\n" + document
		}
	}
	return in, others
}

func podOf(body string) string {
	GinkgoHelper()
	answer := struct{ Pod string }{}
	Expect(json.Unmarshal([]byte(body), &answer)).To(Succeed())
	return answer.Pod
}

// cgroupValues reads one file of the cgroup of a pod's first container, whichever cgroup version the machine
// has. The pod's own group around it has limits, too.
func cgroupValues(root string, pod dcorev1.Pod, v1, v2 string) []string {
	GinkgoHelper()
	controller, file, _ := strings.Cut(v1, "/")
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	Expect(id).NotTo(BeEmpty())
	var values []string
	for _, base := range []struct{ dir, file string }{{"/sys/fs/cgroup/" + controller + root, file}, {"/sys/fs/cgroup" + root, v2}} {
		_ = filepath.WalkDir(base.dir, func(path string, entry os.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && entry.Name() == base.file && strings.Contains(path, string(pod.UID)) && strings.Contains(path, id) {
				data, err := os.ReadFile(path)
				if err == nil {
					values = append(values, strings.TrimSpace(string(data)))
				}
			}
			return nil
		})
	}
	Expect(values).NotTo(BeEmpty(), fmt.Sprintf("no %s or %s in the cgroup of container %s", v1, v2, id))
	return values
}
