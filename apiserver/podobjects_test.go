package apiserver_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"drayage.dev/agent/objects"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/env"
)

var _ = Describe("The broker of pods' objects", func() {
	var namespace, node string

	BeforeEach(func(ctx context.Context) {
		namespace = newNamespace(ctx)
		node = "node-of-" + namespace
	})

	It("serves what a bound pod refers to, and nothing else", func(ctx context.Context) {
		secret := newSecret(ctx, namespace, "referred", "one")
		newSecret(ctx, namespace, "other", "two")
		pod := newPod(namespace, "bound", node)
		refer(pod, "referred")
		Expect(admin.Create(ctx, pod)).To(Succeed())
		elsewhere := newPod(namespace, "elsewhere", "another-node")
		refer(elsewhere, "other")
		Expect(admin.Create(ctx, elsewhere)).To(Succeed())

		broker := startClient(server, node, nil)
		Expect(broker.Secret(ctx, pod.UID, "referred")).To(HaveField("Data", secret.Data))

		_, err := broker.Secret(ctx, pod.UID, "other")
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		limited, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = broker.Secret(limited, elsewhere.UID, "other")
		Expect(err).To(MatchError(ContainSubstring("has not sent it yet")))
		Expect(readFrames(ctx, server, node, "Synced")).NotTo(ContainSubstring("elsewhere"))
	})

	It("says at once that an object does not exist, and hands it over when it does", func(ctx context.Context) {
		pod := newPod(namespace, "early", node)
		refer(pod, "late")
		Expect(admin.Create(ctx, pod)).To(Succeed())
		changes := &recorder{}
		broker := startClient(server, node, changes.record)
		_, err := broker.Secret(ctx, pod.UID, "late")
		Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%v", err)

		newSecret(ctx, namespace, "late", "here")
		Eventually(changes.pods).Should(ContainElement(pod.UID))
		Expect(broker.Secret(ctx, pod.UID, "late")).To(HaveField("Data", HaveKeyWithValue("key", []byte("here"))))
	})

	It("pushes a change", func(ctx context.Context) {
		secret := newSecret(ctx, namespace, "changing", "old")
		pod := newPod(namespace, "reader", node)
		refer(pod, "changing")
		Expect(admin.Create(ctx, pod)).To(Succeed())
		changes := &recorder{}
		broker := startClient(server, node, changes.record)
		Expect(broker.Secret(ctx, pod.UID, "changing")).To(HaveField("Data", secret.Data))

		secret.Data["key"] = []byte("new")
		Expect(admin.Update(ctx, secret)).To(Succeed())
		Eventually(changes.pods).Should(ContainElement(pod.UID))
		Eventually(func() (*corev1.Secret, error) { return broker.Secret(ctx, pod.UID, "changing") }).
			Should(HaveField("Data", HaveKeyWithValue("key", []byte("new"))))

		Expect(admin.Delete(ctx, secret)).To(Succeed())
		Eventually(func() bool {
			_, err := broker.Secret(ctx, pod.UID, "changing")
			return apierrors.IsNotFound(err)
		}).Should(BeTrue())
	})

	It("follows pods that come and go", func(ctx context.Context) {
		newSecret(ctx, namespace, "shared", "value")
		broker := startClient(server, node, nil)
		first, second := newPod(namespace, "first", node), newPod(namespace, "second", "")
		refer(first, "shared")
		refer(second, "shared")
		Expect(admin.Create(ctx, first)).To(Succeed())
		Expect(admin.Create(ctx, second)).To(Succeed())
		Expect(broker.Secret(ctx, first.UID, "shared")).NotTo(BeNil())

		second.Spec.NodeName = node
		Expect(admin.Update(ctx, second)).To(Succeed())
		Expect(broker.Secret(ctx, second.UID, "shared")).NotTo(BeNil())

		Expect(admin.Delete(ctx, first)).To(Succeed())
		Eventually(func() error {
			limited, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			_, err := broker.Secret(limited, first.UID, "shared")
			return err
		}).Should(MatchError(ContainSubstring("has not sent it yet")))
		Expect(broker.Secret(ctx, second.UID, "shared")).NotTo(BeNil())

		second.Status.Phase = corev1.PodSucceeded
		Expect(admin.Status().Update(ctx, second)).To(Succeed())
		Eventually(func() error {
			limited, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			_, err := broker.Secret(limited, second.UID, "shared")
			return err
		}).Should(HaveOccurred())
	})

	It("adds the pull secrets of the pod's service account", func(ctx context.Context) {
		account := &corev1.ServiceAccount{
			ObjectMeta:       metav1.ObjectMeta{Namespace: namespace, Name: "puller"},
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}},
		}
		Expect(admin.Create(ctx, account)).To(Succeed())
		newSecret(ctx, namespace, "registry", "credentials")
		pod := newPod(namespace, "private", node)
		pod.Spec.ServiceAccountName = "puller"
		Expect(admin.Create(ctx, pod)).To(Succeed())
		changes := &recorder{}
		broker := startClient(server, node, changes.record)
		Expect(broker.PullSecrets(ctx, pod.UID)).To(ConsistOf("registry"))
		Expect(broker.Secret(ctx, pod.UID, "registry")).NotTo(BeNil())

		account.ImagePullSecrets = append(account.ImagePullSecrets, corev1.LocalObjectReference{Name: "mirror"})
		Expect(admin.Update(ctx, account)).To(Succeed())
		Eventually(changes.pods).Should(ContainElement(pod.UID))
		Eventually(func() ([]string, error) { return broker.PullSecrets(ctx, pod.UID) }).Should(ConsistOf("registry", "mirror"))
	})

	It("mints tokens for bound pods only, for an hour at most", func(ctx context.Context) {
		pod := newPod(namespace, "caller", node)
		Expect(admin.Create(ctx, pod)).To(Succeed())
		broker := startClient(server, node, nil)
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{"https://somewhere"}, ExpirationSeconds: new(int64(86400)),
		}}
		token, err := broker.Token(ctx, pod.UID, request)
		Expect(err).NotTo(HaveOccurred())
		Expect(token.Status.Token).NotTo(BeEmpty())
		Expect(time.Until(token.Status.ExpirationTimestamp.Time)).To(BeNumerically("~", time.Hour, time.Minute))
		Expect(broker.Token(ctx, pod.UID, request)).To(BeIdenticalTo(token))

		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{
			Token: token.Status.Token, Audiences: []string{"https://somewhere"},
		}}
		Expect(admin.Create(ctx, review)).To(Succeed())
		Expect(review.Status.User.Username).To(Equal("system:serviceaccount:" + namespace + ":default"))

		status, body := post(ctx, as(server, "drayage:node:another-node", dcorev1.NodesGroup), "another-node", "podtokens",
			`{"pod":{"namespace":"`+namespace+`","name":"caller","uid":"`+string(pod.UID)+`"},"spec":{"audiences":[]}}`)
		Expect(status).To(Equal(http.StatusForbidden), body)
		Expect(body).To(ContainSubstring("not bound to node"))
	})

	It("refuses everyone but the node itself and administrators", func(ctx context.Context) {
		path := func(config *rest.Config, node string) int {
			limited, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			response := open(limited, config, node)
			defer response.Body.Close()
			return response.StatusCode
		}
		Expect(path(as(server, "drayage:node:thief", dcorev1.NodesGroup), node)).To(Equal(http.StatusForbidden))
		Expect(path(as(server, "drayage:node:"+node), node)).To(Equal(http.StatusForbidden), "without the group")
		Expect(path(as(server, "somebody"), node)).To(Equal(http.StatusForbidden))
		Expect(path(as(server, "drayage:node:"+node, dcorev1.NodesGroup), node)).To(Equal(http.StatusOK))
		Expect(path(server.Config, node)).To(Equal(http.StatusOK))
	})

	It("is resumed after a restart of the server, and serves the last state meanwhile", func(ctx context.Context) {
		dir, err := tempDir()
		Expect(err).NotTo(HaveOccurred())
		first, err := env.Start(context.Background(), env.WithAPIGroups(group()), env.WithDataDir(dir), withoutRoles())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() error { return first.Stop() })
		firstAdmin, err := first.Client()
		Expect(err).NotTo(HaveOccurred())
		grantNodes(ctx, firstAdmin)
		Expect(firstAdmin.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kept"}, StringData: map[string]string{"key": "before"},
		})).To(Succeed())
		pod := newPod("default", "survivor", node)
		refer(pod, "kept")
		Expect(firstAdmin.Create(ctx, pod)).To(Succeed())
		changes := &recorder{}
		relay := newRelay(first.Config.Host)
		broker := startClientAt(first, relay.URL(), node, changes.record)
		Eventually(func() error { _, err := broker.Secret(ctx, pod.UID, "kept"); return err }).Should(Succeed())

		stopping := time.Now()
		Expect(first.Stop()).To(Succeed())
		GinkgoWriter.Println("stopping took", time.Since(stopping))
		Expect(time.Since(stopping)).To(BeNumerically("<", 50*time.Second), "open streams would hold the server up for a minute")
		Expect(broker.Secret(ctx, pod.UID, "kept")).To(HaveField("Data", HaveKeyWithValue("key", []byte("before"))))

		second, err := env.Start(context.Background(), env.WithAPIGroups(group()), env.WithDataDir(dir), withoutRoles())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(second.Stop)
		relay.To(second.Config.Host)
		secondAdmin, err := second.Client()
		Expect(err).NotTo(HaveOccurred())
		Expect(secondAdmin.Update(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kept"}, StringData: map[string]string{"key": "after"},
		})).To(Succeed())
		Eventually(changes.pods).Should(ContainElement(pod.UID))
		Eventually(func() (*corev1.Secret, error) { return broker.Secret(ctx, pod.UID, "kept") }).
			Should(HaveField("Data", HaveKeyWithValue("key", []byte("after"))))
	})
})

// recorder collects what a client reports as changed.
type recorder struct {
	mu   sync.Mutex
	seen []types.UID
}

func (r *recorder) record(pods []types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, pods...)
}

func (r *recorder) pods() []types.UID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

// startClient runs a node's client until the spec ends.
func startClient(e *env.Env, node string, changed func([]types.UID)) *objects.Client {
	GinkgoHelper()
	return startClientAt(e, e.Config.Host, node, changed)
}

// startClientAt is startClient for a server that is reached at another address.
func startClientAt(e *env.Env, host, node string, changed func([]types.UID)) *objects.Client {
	GinkgoHelper()
	config := as(e, dcorev1.NodeUserPrefix+node, dcorev1.NodesGroup)
	config.Host = host
	broker, err := objects.New(objects.Config{REST: config, Node: node, Changed: changed, Wait: time.Minute})
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); broker.Run(ctx) }()
	DeferCleanup(func() { cancel(); <-done })
	return broker
}

func newSecret(ctx context.Context, namespace, name, value string) *corev1.Secret {
	GinkgoHelper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string][]byte{"key": []byte(value)},
	}
	Expect(admin.Create(ctx, secret)).To(Succeed())
	return secret
}

// refer makes pod take a variable from a secret.
func refer(pod *dcorev1.Pod, secret string) {
	pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{
		Name: "FROM_" + secret, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: "key",
		}},
	})
}

// open opens the stream of a node.
func open(ctx context.Context, config *rest.Config, node string) *http.Response {
	GinkgoHelper()
	return do(ctx, config, http.MethodGet, "/apis/subresources.drayage.dev/v1alpha1/nodes/"+node+"/podobjects", nil)
}

func post(ctx context.Context, config *rest.Config, node, subresource, body string) (int, string) {
	GinkgoHelper()
	response := do(ctx, config, http.MethodPost, "/apis/subresources.drayage.dev/v1alpha1/nodes/"+node+"/"+subresource, []byte(body))
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response.StatusCode, string(answer)
}

func do(ctx context.Context, config *rest.Config, method, path string, body []byte) *http.Response {
	GinkgoHelper()
	httpClient, err := rest.HTTPClientFor(config)
	Expect(err).NotTo(HaveOccurred())
	request, err := http.NewRequestWithContext(ctx, method, config.Host+path, bytes.NewReader(body))
	Expect(err).NotTo(HaveOccurred())
	response, err := httpClient.Do(request)
	Expect(err).NotTo(HaveOccurred())
	return response
}

// readFrames returns what a node's stream says up to the first frame of the given type.
func readFrames(ctx context.Context, e *env.Env, node, last string) string {
	GinkgoHelper()
	response := open(ctx, e.Config, node)
	defer response.Body.Close()
	var seen []byte
	buffer := make([]byte, 4096)
	for !bytes.Contains(seen, []byte(`"type":"`+last+`"`)) {
		n, err := response.Body.Read(buffer)
		seen = append(seen, buffer[:n]...)
		Expect(err).NotTo(HaveOccurred())
	}
	return string(seen)
}
