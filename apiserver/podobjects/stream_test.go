package podobjects

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

var _ = Describe("A stream", func() {
	var w *watches
	var s *stream
	var out *frames

	BeforeEach(func() {
		ctx, cancel := context.WithCancel(context.Background())
		w = newWatches(ctx, fake.NewClientset(
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", ResourceVersion: "1", Annotations: map[string]string{"copy": "of the data"}}, Data: map[string][]byte{"k": []byte("v")}},
		))
		w.linger = 0
		out = &frames{}
		s = newStream(w, out.write)
		done := make(chan struct{})
		go func() { defer close(done); _ = s.run(ctx) }()
		DeferCleanup(func() {
			cancel()
			<-done
			Eventually(func() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.objects) }).Should(BeZero(), "everything acquired is given back")
		})
	})

	It("names a pod before its objects, and all pods before Synced", func() {
		Expect(s.pods.Replace([]any{podWith("a", "s", "absent"), podWith("b", "s")}, "")).To(Succeed())
		Eventually(out.news).Should(ConsistOf("Pod", "Pod", "Object", "Object", "Synced"))
		kinds := out.news()
		Expect(kinds[0]).To(Equal("Pod"))
		var synced, second int
		for i, kind := range kinds {
			switch kind {
			case "Synced":
				synced = i
			case "Pod":
				second = i
			}
		}
		Expect(synced).To(BeNumerically(">", second))
		for _, frame := range out.all() {
			if frame.Object != nil && frame.Object.Name == "absent" {
				Expect(frame.Object.Secret).To(BeNil())
			}
			if frame.Object != nil && frame.Object.Name == "s" {
				Expect(frame.Object.Secret.Data).To(HaveKeyWithValue("k", []byte("v")))
				Expect(frame.Object.Secret.Annotations).To(BeEmpty())
			}
		}
	})

	It("says nothing when nothing changed, and once that a pod is gone", func() {
		Expect(s.pods.Replace([]any{podWith("a", "s")}, "")).To(Succeed())
		Eventually(out.types).Should(ContainElements("Synced", "Object"))
		Expect(s.pods.Update(podWith("a", "s"))).To(Succeed())
		Expect(s.pods.Replace([]any{podWith("a", "s")}, "")).To(Succeed())
		Consistently(out.news).WithTimeout(100 * time.Millisecond).Should(ConsistOf("Pod", "Object", "Synced"))

		Expect(s.pods.Replace(nil, "")).To(Succeed())
		Eventually(out.types).Should(ContainElement("PodGone"))
		Expect(s.pods.Delete(podWith("a", "s"))).To(Succeed())
		Consistently(out.news).WithTimeout(100 * time.Millisecond).Should(ConsistOf("Pod", "Object", "Synced", "PodGone"))
	})

	It("does not send more to a slow reader than what it has to know", func() {
		out.block.Lock()
		Expect(s.pods.Replace([]any{podWith("a", "s")}, "")).To(Succeed())
		for range 1000 {
			Expect(s.pods.Update(podWith("a", "s"))).To(Succeed())
			s.changed(key{secretKind, "ns", "s"})
		}
		s.queue.mu.Lock()
		waiting := len(s.queue.items)
		s.queue.mu.Unlock()
		Expect(waiting).To(BeNumerically("<=", 4))
		out.block.Unlock()
		Eventually(out.types).Should(ContainElements("Synced", "Object"))
	})
})

var _ = Describe("A reader that does not read", func() {
	It("loses its stream", func() {
		failed := make(chan error, 1)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			write := framesTo(w, 200*time.Millisecond)
			large := &subresourcesv1alpha1.PodObjectsFrame{Object: &subresourcesv1alpha1.ObjectState{Name: strings.Repeat("x", 1<<20)}}
			var err error
			for range 1000 {
				if err = write(large); err != nil {
					break
				}
			}
			failed <- err
		}))
		DeferCleanup(server.Close)
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(conn.Close)
		_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		Expect(err).NotTo(HaveOccurred())
		Eventually(failed).Should(Receive(MatchError(os.ErrDeadlineExceeded)))
	})
})

var _ = Describe("What a pod needs", func() {
	It("is what its volumes, environment and image pulls name", func() {
		local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"},
			Spec: corev1.PodSpec{
				ImagePullSecrets: []corev1.LocalObjectReference{local("pull")},
				Volumes: []corev1.Volume{
					{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume"}}},
					{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("files")}}},
					{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
						{Secret: &corev1.SecretProjection{LocalObjectReference: local("projected")}},
						{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("kube-root-ca.crt")}},
					}}}},
				},
				InitContainers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
					{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("from")}},
					{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("from")}},
				}}},
				Containers: []corev1.Container{{Env: []corev1.EnvVar{
					{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local("key")}}},
					{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local("key")}}},
				}}},
			},
		}
		n := needsOf(pod)
		Expect(n.refs.Secrets).To(Equal([]string{"from", "key", "projected", "pull", "volume"}))
		Expect(n.refs.ConfigMaps).To(Equal([]string{"files", "from", "key", "kube-root-ca.crt"}))
		Expect(n.refs.PullSecrets).To(Equal([]string{"pull"}))
		Expect(n.account).To(BeEmpty(), "the pod has pull secrets of its own")
		account := &corev1.ServiceAccount{ImagePullSecrets: []corev1.LocalObjectReference{local("account"), local("key")}}
		Expect(n.with(account)).To(Equal(n.refs))

		pod.Spec.ImagePullSecrets = nil
		n = needsOf(pod)
		Expect(n.account).To(Equal("default"))
		refs := n.with(account)
		Expect(refs.PullSecrets).To(Equal([]string{"account", "key"}))
		Expect(refs.Secrets).To(Equal([]string{"account", "from", "key", "projected", "volume"}))
		Expect(n.refs.Secrets).To(Equal([]string{"from", "key", "projected", "volume"}), "what is shared stays as it is")
	})
})

// frames collects what a stream sends.
type frames struct {
	// block holds writes up.
	block sync.Mutex

	mu   sync.Mutex
	sent []subresourcesv1alpha1.PodObjectsFrame
}

func (f *frames) write(frame *subresourcesv1alpha1.PodObjectsFrame) error {
	f.block.Lock()
	defer f.block.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, *frame)
	return nil
}

func (f *frames) all() []subresourcesv1alpha1.PodObjectsFrame {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]subresourcesv1alpha1.PodObjectsFrame(nil), f.sent...)
}

// news are the types of all frames but heartbeats, which come every few seconds, and first of all when a stream runs before its
// pods are there.
func (f *frames) news() []string {
	return slices.DeleteFunc(f.types(), func(kind string) bool { return kind == "Heartbeat" })
}

func (f *frames) types() []string {
	var types []string
	for _, frame := range f.all() {
		types = append(types, string(frame.Type))
	}
	return types
}

// podWith returns a pod that takes variables from secrets.
func podWith(name string, secrets ...string) *dcorev1.Pod {
	pod := &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}},
	}
	for _, secret := range secrets {
		pod.Spec.Containers[0].EnvFrom = append(pod.Spec.Containers[0].EnvFrom, corev1.EnvFromSource{
			SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}},
		})
	}
	return pod
}
