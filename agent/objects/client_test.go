package objects_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"

	"drayage.dev/agent/objects"
)

var _ = Describe("The client", func() {
	var broker *scriptedBroker
	var client *objects.Client
	var log *gbytes.Buffer
	var changes chan []types.UID
	var wait time.Duration

	BeforeEach(func() { wait = 200 * time.Millisecond })
	JustBeforeEach(func() {
		broker = newBroker()
		changes = make(chan []types.UID, 100)
		var err error
		client, err = objects.New(objects.Config{
			REST: &rest.Config{Host: broker.server.URL}, Node: "n", Wait: wait,
			Changed: func(pods []types.UID) { changes <- pods },
		})
		Expect(err).NotTo(HaveOccurred())
		log = gbytes.NewBuffer()
		ctx, cancel := context.WithCancel(logr.NewContext(context.Background(), funcr.New(func(_, args string) { fmt.Fprintln(log, args) }, funcr.Options{})))
		done := make(chan struct{})
		go func() { defer close(done); client.Run(ctx) }()
		DeferCleanup(func() { cancel(); <-done })
	})

	It("tells what does not exist from what is not known yet", func(ctx context.Context) {
		_, err := client.Secret(ctx, "a", "s")
		Expect(err).To(MatchError(ContainSubstring("has not sent it yet")))
		broker.send(podFrame("a", "s", "t"))
		_, err = client.Secret(ctx, "a", "s")
		Expect(err).To(MatchError(ContainSubstring("has not sent it yet")))
		broker.send(secretFrame("s", "", ""))
		Eventually(func() bool { _, err := client.Secret(ctx, "a", "s"); return apierrors.IsNotFound(err) }).Should(BeTrue())
		_, err = client.Secret(ctx, "a", "not-its-own")
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		_, err = client.ConfigMap(ctx, "a", "s")
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
	})

	Describe("with time", func() {
		BeforeEach(func() { wait = time.Minute })

		It("waits for what is on its way", func(ctx context.Context) {
			broker.send(podFrame("a", "t"))
			found := make(chan *corev1.Secret, 1)
			go func() {
				defer GinkgoRecover()
				secret, err := client.Secret(ctx, "a", "t")
				Expect(err).NotTo(HaveOccurred())
				found <- secret
			}()
			Consistently(found, "100ms").ShouldNot(Receive())
			broker.send(secretFrame("t", "1", "value"))
			Eventually(found).Should(Receive(HaveField("Data", HaveKeyWithValue("k", []byte("value")))))
		})

		It("serves a token for as long as it is good, and renews it in time", func(ctx context.Context) {
			broker.send(podFrame("a"), syncedFrame())
			request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"x"}}}
			broker.tokens(time.Hour)
			first, err := client.Token(ctx, "a", request)
			Expect(err).NotTo(HaveOccurred())
			broker.tokens(0)
			Expect(client.Token(ctx, "a", request)).To(BeIdenticalTo(first))
			other := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"y"}}}
			_, err = client.Token(ctx, "a", other)
			Expect(err).To(MatchError(ContainSubstring("requesting a token for pod ns/a")))

			broker.tokens(500 * time.Millisecond)
			short, err := client.Token(ctx, "a", other)
			Expect(err).NotTo(HaveOccurred())
			Eventually(func() (*authenticationv1.TokenRequest, error) { return client.Token(ctx, "a", other) }).
				ShouldNot(BeIdenticalTo(short))
		})
	})

	It("keeps the last state through a loss of the stream, and drops what the next one no longer names", func(ctx context.Context) {
		broker.send(podFrame("a", "s"), podFrame("b", "s"), secretFrame("s", "1", "old"), syncedFrame())
		Eventually(func() error { _, err := client.Secret(ctx, "b", "s"); return err }).Should(Succeed())
		broker.hangUp()
		Consistently(func() error { _, err := client.Secret(ctx, "b", "s"); return err }).WithTimeout(50 * time.Millisecond).Should(Succeed())

		broker.awaitReader()
		broker.send(podFrame("a", "s"), secretFrame("s", "1", "old"), syncedFrame())
		Eventually(func() error { _, err := client.Secret(ctx, "b", "s"); return err }).ShouldNot(Succeed())
		Expect(client.Secret(ctx, "a", "s")).NotTo(BeNil())
		Expect(changes).To(BeEmpty(), "the same object again is no change")

		broker.send(secretFrame("s", "2", "new"))
		Eventually(changes).Should(Receive(ConsistOf(types.UID("a"))))
		broker.send(secretFrame("s", "", ""))
		Eventually(changes).Should(Receive(ConsistOf(types.UID("a"))))
		broker.send(goneFrame("a"))
		Eventually(func() error { _, err := client.Secret(ctx, "a", "s"); return err }).Should(MatchError(ContainSubstring("has not sent it yet")))
	})

	It("never repeats what it received in an error or a log line", func(ctx context.Context) {
		broker.send(podFrame("a", "s"))
		broker.raw(`{"type":"Object","object":{"kind":"Secret","secret":"hunter2-in-the-wrong-place"}}`)
		broker.awaitReader()
		broker.raw(`hunter2-without-quotes`)
		broker.awaitReader()
		broker.hangUp()
		broker.awaitReader()
		Expect(string(log.Contents())).To(ContainSubstring("lost the stream"))
		Expect(string(log.Contents())).NotTo(ContainSubstring("hunter2"))
	})
})

// scriptedBroker is a server whose stream says what a spec says.
type scriptedBroker struct {
	server *httptest.Server

	// readers hands each new stream to the spec.
	readers chan chan []byte

	mu      sync.Mutex
	current chan []byte
	life    time.Duration
	minted  int
}

func newBroker() *scriptedBroker {
	b := &scriptedBroker{readers: make(chan chan []byte)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /apis/subresources.drayage.dev/v1alpha1/nodes/n/podobjects", b.stream)
	mux.HandleFunc("POST /apis/subresources.drayage.dev/v1alpha1/nodes/n/podtokens", b.token)
	b.server = httptest.NewServer(mux)
	DeferCleanup(func() {
		b.server.CloseClientConnections()
		b.server.Close()
	})
	return b
}

func (b *scriptedBroker) stream(w http.ResponseWriter, r *http.Request) {
	lines := make(chan []byte)
	select {
	case b.readers <- lines:
	case <-r.Context().Done():
		return
	}
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			_, _ = w.Write(append(line, '\n'))
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func (b *scriptedBroker) token(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var request subresourcesv1alpha1.PodTokenRequest
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil || b.life == 0 || request.Pod.UID != "a" {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	b.minted++
	w.WriteHeader(http.StatusCreated)
	// An expiration has whole seconds, so what a token's life is cut by is added to the clock's.
	expires := time.Now().Add(b.life)
	if b.life < time.Second {
		expires = expires.Truncate(time.Second).Add(time.Second)
	}
	_ = json.NewEncoder(w).Encode(&authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
		Token: fmt.Sprintf("token-%d", b.minted), ExpirationTimestamp: metav1.NewTime(expires),
	}})
}

// tokens sets the life of tokens; none are minted when it is zero.
func (b *scriptedBroker) tokens(life time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.life = life
}

// awaitReader waits for the client's next stream.
func (b *scriptedBroker) awaitReader() {
	GinkgoHelper()
	Eventually(b.readers).Should(Receive(&b.current))
}

// hangUp ends the stream.
func (b *scriptedBroker) hangUp() { close(b.current) }

func (b *scriptedBroker) send(frames ...subresourcesv1alpha1.PodObjectsFrame) {
	GinkgoHelper()
	for _, frame := range frames {
		line, err := json.Marshal(frame)
		Expect(err).NotTo(HaveOccurred())
		b.raw(string(line))
	}
}

func (b *scriptedBroker) raw(line string) {
	GinkgoHelper()
	if b.current == nil {
		b.awaitReader()
	}
	Eventually(b.current).Should(BeSent([]byte(line)))
}

func podFrame(name string, secrets ...string) subresourcesv1alpha1.PodObjectsFrame {
	return subresourcesv1alpha1.PodObjectsFrame{Type: subresourcesv1alpha1.PodFrame, Pod: &subresourcesv1alpha1.PodReferences{
		PodIdentity: subresourcesv1alpha1.PodIdentity{Namespace: "ns", Name: name, UID: types.UID(name)}, Secrets: secrets,
	}}
}

func goneFrame(name string) subresourcesv1alpha1.PodObjectsFrame {
	frame := podFrame(name)
	frame.Type = subresourcesv1alpha1.PodGoneFrame
	return frame
}

func syncedFrame() subresourcesv1alpha1.PodObjectsFrame {
	return subresourcesv1alpha1.PodObjectsFrame{Type: subresourcesv1alpha1.SyncedFrame}
}

// secretFrame is a secret, or that there is none when it has no version.
func secretFrame(name, version, value string) subresourcesv1alpha1.PodObjectsFrame {
	state := &subresourcesv1alpha1.ObjectState{Kind: subresourcesv1alpha1.SecretKind, Namespace: "ns", Name: name}
	if version != "" {
		state.Secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: version},
			Data:       map[string][]byte{"k": []byte(value)},
		}
	}
	return subresourcesv1alpha1.PodObjectsFrame{Type: subresourcesv1alpha1.ObjectFrame, Object: state}
}
