package e2e_test

import (
	"context"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/images"
)

const (
	privateRegistry = "127.0.0.1:5001"
	registryUser    = "team"
	registryKey     = "open sesame"
)

// servePrivately serves an image under some tags on the node's loopback, to those who know the password.
func servePrivately(ctx context.Context, tags ...string) {
	GinkgoHelper()
	built, err := images.Build(ctx)
	Expect(err).NotTo(HaveOccurred())
	var private []images.Image
	for _, tag := range tags {
		private = append(private, images.Image{Name: "team/app:" + tag, Image: built[0].Image})
	}
	registry, err := images.NewRegistry(ctx, private)
	Expect(err).NotTo(HaveOccurred())
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, key, _ := r.BasicAuth(); user != registryUser || key != registryKey {
			w.Header().Set("WWW-Authenticate", `Basic realm="team"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		registry.ServeHTTP(w, r)
	})}
	listener, err := c.Nodes[0].Namespace.Listen("tcp", privateRegistry)
	Expect(err).NotTo(HaveOccurred())
	go func() { _ = server.Serve(listener) }()
	DeferCleanup(server.Close)
}

var _ = Describe("images behind a password", func() {
	It("are pulled as soon as the credentials are there, the pod's or its service account's", func(ctx SpecContext) {
		servePrivately(ctx, "pod", "account", "nobody")
		namespace := newNamespace(ctx, c)
		text := `
apiVersion: v1
kind: ServiceAccount
metadata: {name: puller}
imagePullSecrets: [{name: registry}]
---
`
		for _, pod := range []struct{ name, more string }{
			{"pod", "imagePullSecrets: [{name: registry}]"}, {"account", "serviceAccountName: puller"}, {"nobody", ""},
		} {
			text += strings.NewReplacer("NAME", pod.name, "MORE", pod.more, "REGISTRY", privateRegistry).Replace(`
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: NAME, labels: {app: private, who: NAME}}
spec:
  containers: [{name: web, image: "REGISTRY/team/app:NAME"}]
  MORE
---
`)
		}
		apply(ctx, c, namespace, text)

		refused := func(name string) {
			GinkgoHelper()
			image := privateRegistry + "/team/app:" + name
			Eventually(func(g Gomega) {
				pod := &dcorev1.Pod{}
				g.Expect(c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)).To(Succeed())
				g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
				g.Expect(pod.Status.ContainerStatuses[0].State.Waiting).To(HaveValue(And(
					HaveField("Reason", "ImagePullBackOff"), HaveField("Message", And(ContainSubstring(image), ContainSubstring("401 Unauthorized"))))))
			}).Should(Succeed())
			Eventually(func(g Gomega) {
				events := &corev1.EventList{}
				g.Expect(c.Client.List(ctx, events, client.InNamespace(namespace), client.MatchingFields{"involvedObject.name": name})).To(Succeed())
				g.Expect(events.Items).To(ContainElement(And(HaveField("Reason", "Failed"), HaveField("Message", ContainSubstring(image)))))
			}).Should(Succeed())
		}
		for _, name := range []string{"pod", "account", "nobody"} {
			refused(name)
		}
		By("what is missing is named, too")
		Eventually(func() (string, error) { return c.Kubectl(ctx, "get", "events", "-n", namespace) }).Should(
			MatchRegexp(`FailedToRetrieveImagePullSecret .*registry`))

		By("with the password they run, by themselves")
		_, err := c.Kubectl(ctx, "create", "secret", "docker-registry", "registry", "-n", namespace,
			"--docker-server="+privateRegistry, "--docker-username="+registryUser, "--docker-password="+registryKey)
		Expect(err).NotTo(HaveOccurred())
		readyPods(ctx, c, namespace, labels.Set{"who": "pod"}, 1)
		readyPods(ctx, c, namespace, labels.Set{"who": "account"}, 1)
		refused("nobody")
	}, SpecTimeout(10*time.Minute))
})
