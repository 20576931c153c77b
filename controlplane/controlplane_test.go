package controlplane_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/config"
	"drayage.dev/controlplane"
	"drayage.dev/controlplane/pki"
	"drayage.dev/test/env"
)

var _ = Describe("a data directory", func() {
	It("brings everything back after a restart, with the kinds of the newer program", func(ctx context.Context) {
		dir, err := os.MkdirTemp("", "dray")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(os.RemoveAll, dir)
		crds, err := config.CRDs()
		Expect(err).NotTo(HaveOccurred())

		e, c := start(ctx, env.WithDataDir(dir))
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: podSpec()}
		Expect(c.Create(ctx, pod)).To(Succeed())
		admin, err := os.ReadFile(e.Info.Kubeconfigs["admin"])
		Expect(err).NotTo(HaveOccurred())
		Expect(admin).To(ContainSubstring("client-certificate-data"))
		ca, err := os.ReadFile(e.Info.CAFile)
		Expect(err).NotTo(HaveOccurred())
		Expect(e.Stop()).To(Succeed())

		for _, crd := range crds {
			crd.Spec.Names.ShortNames = append(crd.Spec.Names.ShortNames, "x"+crd.Spec.Names.Singular)
		}
		e, c = start(ctx, env.WithDataDir(dir), env.WithCRDs(crds...))
		stored := &dcorev1.Pod{}
		Expect(c.Get(ctx, client.ObjectKeyFromObject(pod), stored)).To(Succeed())
		Expect(stored.UID).To(Equal(pod.UID))
		Expect(os.ReadFile(e.Info.CAFile)).To(Equal(ca))
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
		Expect(c.Get(ctx, client.ObjectKey{Name: "pods.core.drayage.dev"}, crd)).To(Succeed())
		names, _, err := unstructured.NestedStringSlice(crd.Object, "spec", "names", "shortNames")
		Expect(err).NotTo(HaveOccurred())
		Expect(names).To(ContainElement("xpod"))

		By("refusing a second process on the same directory")
		err = controlplane.Run(ctx, controlplane.Config{DataDir: dir})
		Expect(err).To(MatchError(ContainSubstring("another control plane runs from it")))
	})

	It("is refused when its version is another", func(ctx context.Context) {
		dir := GinkgoT().TempDir()
		Expect(os.WriteFile(filepath.Join(dir, "version"), []byte("99\n"), 0o600)).To(Succeed())
		err := controlplane.Run(ctx, controlplane.Config{DataDir: dir})
		Expect(err).To(MatchError(ContainSubstring(`it has format "99" and this program needs "1"`)))
	})

	It("is not touched when the port is taken", func(ctx context.Context) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(listener.Close)
		err = controlplane.Run(ctx, controlplane.Config{
			DataDir: GinkgoT().TempDir(), BindAddress: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port,
		})
		Expect(err).To(MatchError(And(ContainSubstring("already in use"), ContainSubstring("--port"))))
	})
})

var _ = Describe("what comes in through the configuration", Ordered, func() {
	var (
		e *env.Env
		c client.WithWatch
	)

	BeforeAll(func(ctx context.Context) {
		e, c = start(ctx,
			env.WithAdmission(controlplane.AdmissionPlugin{Name: "Imager", New: func() (admission.Interface, error) { return imager{admission.NewHandler(admission.Create)}, nil }}),
			env.WithAPIGroups(controlplane.APIGroup{New: greetings}))
	})

	It("lets admission plugins change objects before their schema is checked", func(ctx context.Context) {
		// The schema demands spec.containers; the plugin fills them in.
		pod := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"nodeName": ""}}}
		pod.SetGroupVersionKind(dcorev1.GroupVersion.WithKind("Pod"))
		pod.SetNamespace("default")
		pod.SetName("bare")
		Expect(c.Create(ctx, pod)).To(Succeed())
		stored := &dcorev1.Pod{}
		Expect(c.Get(ctx, client.ObjectKeyFromObject(pod), stored)).To(Succeed())
		Expect(stored.Spec.Containers).To(HaveLen(1))
	})

	It("serves groups of this process beside Kubernetes' own, under RBAC and in discovery", func(ctx context.Context) {
		disco, err := discovery.NewDiscoveryClientForConfig(e.Config)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() error {
			_, err := disco.ServerResourcesForGroupVersion("greetings.drayage.dev/v1")
			return err
		}).Should(Succeed())
		Eventually(func(g Gomega) {
			groups, err := disco.ServerGroups()
			g.Expect(err).NotTo(HaveOccurred())
			names := []string{}
			for _, group := range groups.Groups {
				names = append(names, group.Name)
			}
			g.Expect(names).To(ContainElement("greetings.drayage.dev"))
		}).Should(Succeed())

		path := "/apis/greetings.drayage.dev/v1/namespaces/default/greetings/bob/hello"
		body, err := disco.RESTClient().Get().AbsPath(path).DoRaw(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(body)).To(Equal("hello bob"))

		nobody, err := e.As("nobody")
		Expect(err).NotTo(HaveOccurred())
		_, err = clientset(nobody).Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
	})
})

// imager gives a pod without containers one.
type imager struct{ *admission.Handler }

func (imager) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetKind().GroupKind() != dcorev1.GroupVersion.WithKind("Pod").GroupKind() {
		return nil
	}
	object := a.GetObject().(*unstructured.Unstructured).Object
	return unstructured.SetNestedSlice(object, []any{map[string]any{"name": "web", "image": "web:1"}}, "spec", "containers")
}

// greetings is an API group with one connectable subresource, as streams to nodes are.
func greetings(context.Context, controlplane.Deps) (*genericapiserver.APIGroupInfo, error) {
	group := schema.GroupVersion{Group: "greetings.drayage.dev", Version: "v1"}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	metav1.AddToGroupVersion(scheme, group)
	if err := scheme.SetVersionPriority(group); err != nil {
		return nil, err
	}
	scheme.AddKnownTypes(group, &corev1.Namespace{})
	info := genericapiserver.NewDefaultAPIGroupInfo(group.Group, scheme, runtime.NewParameterCodec(scheme), serializer.NewCodecFactory(scheme))
	info.VersionedResourcesStorageMap["v1"] = map[string]rest.Storage{"greetings": parent{}, "greetings/hello": hello{}}
	return &info, nil
}

// parent makes the resource known in discovery and stores nothing.
type parent struct{}

func (parent) New() runtime.Object     { return &corev1.Namespace{} }
func (parent) Destroy()                {}
func (parent) NamespaceScoped() bool   { return true }
func (parent) GetSingularName() string { return "greeting" }

type hello struct{ parent }

func (hello) ConnectMethods() []string                          { return []string{http.MethodGet} }
func (hello) NewConnectOptions() (runtime.Object, bool, string) { return nil, false, "" }
func (hello) Connect(_ context.Context, id string, _ runtime.Object, _ rest.Responder) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello " + id)) }), nil
}

var _ = Describe("the service default/kubernetes", func() {
	It("leads to the API server and comes back when it is deleted", func(ctx context.Context) {
		e, c := start(ctx, env.WithConfig(func(c *controlplane.Config) { c.AdvertiseAddress = "192.0.2.9" }))
		service := &dcorev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}}
		slice := &ddiscoveryv1.EndpointSlice{ObjectMeta: service.ObjectMeta}
		kept := func(g Gomega) {
			g.Expect(c.Get(ctx, client.ObjectKeyFromObject(service), service)).To(Succeed())
			g.Expect(service.Spec.ClusterIP).To(Equal("10.96.0.1"))
			g.Expect(c.Get(ctx, client.ObjectKeyFromObject(slice), slice)).To(Succeed())
			g.Expect(slice.Endpoints[0].Addresses).To(ConsistOf("192.0.2.9"))
			g.Expect(e.Info.URL).To(HaveSuffix(fmt.Sprint(*slice.Ports[0].Port)))
			claims := &dnetworkingv1alpha1.AllocationList{}
			g.Expect(c.List(ctx, claims)).To(Succeed())
			g.Expect(claims.Items).To(HaveLen(1))
			g.Expect(claims.Items[0].Spec.Owner.UID).To(Equal(service.UID))
		}
		Eventually(kept).Should(Succeed())
		Expect(c.Delete(ctx, service)).To(Succeed())
		Expect(c.Delete(ctx, slice)).To(Succeed())
		Eventually(kept).Should(Succeed())
	})
})

var _ = Describe("a stop", func() {
	// Where upstream's API server is stopped in the middle of its start, it ends the process: here, the specs.
	DescribeTable("in the middle of the start is no failure", func(ctx context.Context, after time.Duration) {
		ctx, cancel := context.WithTimeout(ctx, after)
		defer cancel()
		e, err := env.Start(ctx)
		if err == nil { // a quick machine
			Expect(e.Stop()).To(Succeed())
			return
		}
		Expect(err).To(MatchError("starting a control plane: it ended before it was ready"))
	},
		Entry("at once", time.Nanosecond),
		Entry("while etcd starts", 100*time.Millisecond),
		Entry("while the API server begins to serve", 500*time.Millisecond),
		Entry("while it makes its default objects", 800*time.Millisecond),
		Entry("while it makes the last of them", 1200*time.Millisecond),
	)

	It("does not wait for clients to end their watches", func(ctx context.Context) {
		e, c := start(ctx)
		for _, list := range []client.ObjectList{&dcorev1.PodList{}, &corev1.SecretList{}} {
			watch, err := c.Watch(ctx, list)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(watch.Stop)
		}
		begun := time.Now()
		Expect(e.Stop()).To(Succeed())
		Expect(time.Since(begun)).To(BeNumerically("<", 50*time.Second), "it would wait a minute")
	})
})

var _ = Describe("a renewed certificate", func() {
	It("is served without a restart", func(ctx context.Context) {
		e, _ := start(ctx, env.WithCRDs())
		serial := func() string {
			GinkgoHelper()
			connection, err := tls.Dial("tcp", strings.TrimPrefix(e.Config.Host, "https://"), &tls.Config{InsecureSkipVerify: true})
			Expect(err).NotTo(HaveOccurred())
			defer connection.Close()
			return connection.ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		before := serial()
		certs, err := pki.Ensure(pki.Config{Dir: filepath.Join(e.DataDir, "server/pki"), DNSNames: []string{"another.example.com"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
		Expect(err).NotTo(HaveOccurred())
		Expect(certs.ServingCert()).To(BeARegularFile())
		Eventually(serial).ShouldNot(Equal(before))
	})
})
