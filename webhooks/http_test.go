package webhooks_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/cert"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

const managerUser = "drayage:manager"

var _ = Describe("the webhooks over HTTP", Ordered, func() {
	var (
		plain   *env.Env
		user    client.WithWatch
		manager client.Client
		address string
		ca      []byte
	)

	BeforeAll(func() {
		ctx, cancel := context.WithCancel(context.Background())
		DeferCleanup(cancel)
		var err error
		plain, err = env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(plain.Stop)
		user, err = plain.Client()
		Expect(err).NotTo(HaveOccurred())
		asManager, err := plain.As(managerUser)
		Expect(err).NotTo(HaveOccurred())
		manager, err = client.New(asManager, client.Options{Scheme: scheme.New()})
		Expect(err).NotTo(HaveOccurred())
		Expect(user.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "manager-in-test"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: managerUser}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		})).To(Succeed())

		address, ca = serveWebhooks(ctx, user)
		url := fmt.Sprintf("https://%s", address)
		mutating, validating := webhooks.Configurations(admissionregistrationv1.WebhookClientConfig{URL: ptr.To(url), CABundle: ca}, managerUser)
		Expect(user.Create(ctx, mutating)).To(Succeed())
		Expect(user.Create(ctx, validating)).To(Succeed())
		// The API server learns of configurations by watch.
		Eventually(func(g Gomega) {
			pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "probe"}}
			g.Expect(apierrors.IsInvalid(user.Create(ctx, pod, client.DryRunAll))).To(BeTrue())
			g.Expect(user.Create(ctx, pod, client.DryRunAll)).To(MatchError(ContainSubstring("mutate.drayage.dev")))
		}).Should(Succeed())
	})

	newPod := func(name string) *dcorev1.Pod {
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		pod.Spec.Containers = []corev1.Container{{Name: "web", Image: "web"}}
		return pod
	}

	It("prepare, refuse and let the agent's writes pass", func(ctx context.Context) {
		pod := newPod("web")
		Expect(user.Create(ctx, pod)).To(Succeed())
		Expect(pod.Finalizers).To(Equal([]string{dcorev1.NodeFinalizer}))
		Expect(pod.Spec.Volumes).To(HaveLen(1))

		pod.Spec.Containers[0].Command = []string{"sh"}
		Expect(user.Update(ctx, pod)).To(MatchError(ContainSubstring(
			`admission webhook "mutate.drayage.dev" denied the request: Pod.core.drayage.dev "web" is invalid: spec: Forbidden: pod updates may not change fields`)))

		bad := newPod("bad")
		bad.Spec.RuntimeClassName = ptr.To("kata")
		err := user.Create(ctx, bad)
		Expect(err).To(MatchError(ContainSubstring("spec.runtimeClassName: Forbidden: not implemented by Drayage yet")))
		Expect(apierrors.IsInvalid(err)).To(BeTrue())

		Expect(user.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(user.Patch(ctx, pod, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"nodeName":"n1"}}`)))).To(Succeed())
		pod.Status.Phase = corev1.PodRunning
		Expect(user.Status().Update(ctx, pod)).To(Succeed())

		Expect(user.Delete(ctx, pod, client.GracePeriodSeconds(3))).To(Succeed())
		Expect(user.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "3"))

		pod = newPod("forced")
		Expect(user.Create(ctx, pod)).To(Succeed())
		Expect(user.Delete(ctx, pod, client.GracePeriodSeconds(0))).To(Succeed())
		Expect(apierrors.IsNotFound(user.Get(ctx, client.ObjectKeyFromObject(pod), pod))).To(BeTrue())
	})

	It("hold pods to what their namespace enforces", func(ctx context.Context) {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: "held", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted"},
		}}
		Expect(user.Create(ctx, namespace)).To(Succeed())
		pod := newPod("privileged")
		pod.Namespace = namespace.Name
		pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
		Expect(user.Create(ctx, pod, client.DryRunAll)).To(MatchError(ContainSubstring(`violates PodSecurity "baseline:latest": privileged`)))
		pod.Spec.Containers[0].SecurityContext = nil
		Expect(user.Create(ctx, pod, client.DryRunAll)).To(Succeed())

		By("telling the audit log")
		object, err := json.Marshal(pod)
		Expect(err).NotTo(HaveOccurred())
		review, err := json.Marshal(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"},
			Request: &admissionv1.AdmissionRequest{
				UID: "1", Operation: admissionv1.Create, Namespace: pod.Namespace, Object: runtime.RawExtension{Raw: object},
				Resource: metav1.GroupVersionResource{Group: dcorev1.GroupVersion.Group, Version: "v1", Resource: "pods"},
			},
		})
		Expect(err).NotTo(HaveOccurred())
		roots := x509.NewCertPool()
		Expect(roots.AppendCertsFromPEM(ca)).To(BeTrue())
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
		answer, err := client.Post("https://"+address+webhooks.MutatePath, "application/json", bytes.NewReader(review))
		Expect(err).NotTo(HaveOccurred())
		defer answer.Body.Close()
		var reviewed admissionv1.AdmissionReview
		Expect(json.NewDecoder(answer.Body).Decode(&reviewed)).To(Succeed())
		Expect(reviewed.Response.Allowed).To(BeTrue())
		Expect(reviewed.Response.AuditAnnotations).To(And(HaveKeyWithValue("enforce-policy", "baseline:latest"),
			HaveKeyWithValue("audit-violations", ContainSubstring(`would violate PodSecurity "restricted:latest": allowPrivilegeEscalation`))))
	})

	It("take the manager's pods as they are", func(ctx context.Context) {
		pod := newPod("prepared")
		Expect(manager.Create(ctx, pod)).To(Succeed())
		Expect(pod.Finalizers).To(BeEmpty(), "the manager prepares its pods itself; the webhook was not asked")
		Expect(manager.Delete(ctx, pod)).To(Succeed())
	})

	It("default workloads", func(ctx context.Context) {
		d := &dappsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		d.Spec.Template.Labels = d.Spec.Selector.MatchLabels
		d.Spec.Template.Spec = newPod("").Spec
		Expect(manager.Create(ctx, d)).To(Succeed())
		Expect(d.Spec.Replicas).To(HaveValue(BeEquivalentTo(1)))
	})
})

// serveWebhooks serves the webhooks on loopback until ctx ends and returns where, and by which authority.
func serveWebhooks(ctx context.Context, c client.Client) (address string, ca []byte) {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(filepath.Join(dir, "tls.crt"), certPEM, 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, "tls.key"), keyPEM, 0o600)).To(Succeed())
	// The server opens the port itself. It is none of those that connections take.
	const port = 9443
	server := webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, CertDir: dir})
	webhooks.Register(server, c, c)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	DeferCleanup(func() {
		cancel()
		Eventually(ended).Should(Receive(BeNil()))
	})

	address = fmt.Sprintf("127.0.0.1:%d", port)
	roots := x509.NewCertPool()
	Expect(roots.AppendCertsFromPEM(certPEM)).To(BeTrue())
	Eventually(func() error {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots})
		if err == nil {
			err = conn.Close()
		}
		return err
	}).Should(Succeed())
	return address, certPEM
}
