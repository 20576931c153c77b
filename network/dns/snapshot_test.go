package dns_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	miekg "github.com/miekg/dns"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/internal/upstream"
	"drayage.dev/network/dns"
	"drayage.dev/test/env"
)

// whole is a snapshot as earlier versions wrote it: the API's objects with all that they have.
const whole = `{"services":[{"kind":"Service","apiVersion":"core.drayage.dev/v1","metadata":{"name":"old","namespace":"shop","uid":"6f1d",
 "resourceVersion":"17","generation":2,"creationTimestamp":"2026-11-20T08:00:00Z","labels":{"app":"old"},"annotations":{"note":"kept"},
 "managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"core.drayage.dev/v1","time":"2026-11-20T08:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{}}}]},
 "spec":{"type":"ClusterIP","clusterIP":"10.96.0.50","clusterIPs":["10.96.0.50"],"selector":{"app":"old"},"sessionAffinity":"None",
 "ports":[{"name":"web","protocol":"TCP","port":80,"targetPort":8080}]},
 "status":{"loadBalancer":{},"conditions":[{"type":"Ready","status":"True","reason":"Allocated","message":"","lastTransitionTime":"2026-11-20T08:00:00Z"}]}},
 {"metadata":{"name":"pods","namespace":"shop"},"spec":{"clusterIP":"None","clusterIPs":["None"]}}],
"endpointSlices":[{"metadata":{"name":"pods-x2x","namespace":"shop","labels":{"kubernetes.io/service-name":"pods","app":"old"},
 "ownerReferences":[{"apiVersion":"core.drayage.dev/v1","kind":"Service","name":"pods","uid":"6f1e","controller":true}]},"addressType":"IPv4",
 "endpoints":[{"addresses":["10.244.1.5"],"conditions":{"ready":true,"serving":true,"terminating":false},"hostname":"pods-0","nodeName":"n1",
 "targetRef":{"kind":"Pod","namespace":"shop","name":"pods-0","uid":"6f1f"},"zone":"a"}],
 "ports":[{"name":"web","protocol":"TCP","port":8080}]}]}
`

var _ = Describe("the snapshot of dray-dns", Ordered, func() {
	var (
		api  *env.Env
		ours client.Client
	)
	BeforeAll(func() {
		ctx := context.Background() // the API server outlives this
		var err error
		api, err = env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(api.Stop)
		ours, err = api.Client()
		Expect(err).NotTo(HaveOccurred())
		Expect(ours.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})).To(Succeed())
		Expect(ours.Create(ctx, upstream.FromService(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "new"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.60", Ports: []corev1.ServicePort{{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP}}},
		}))).To(Succeed())
	})

	// serve runs a server with the snapshot, until the spec's end or the returned function is called.
	serve := func(reach *clientrest.Config, file string) (ask func(name string) string, stop func()) {
		GinkgoHelper()
		// No client's connection takes a port of this address.
		address := netip.MustParseAddrPort("127.9.9.9:1053")
		ctx, cancel := context.WithCancel(context.Background())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() {
			done <- dns.Run(ctx, dns.Config{
				RESTConfig: reach, Address: address.Addr(), Port: address.Port(), Upstreams: []string{"127.0.0.1:1"},
				SnapshotFile: file, Ready: func() { close(ready) },
			})
		}()
		stopped := false
		stop = func() {
			GinkgoHelper()
			if cancel(); !stopped {
				stopped = true
				Eventually(done).WithTimeout(30 * time.Second).Should(Receive(BeNil()))
			}
		}
		DeferCleanup(func() { stop() })
		Eventually(ready).WithTimeout(30 * time.Second).Should(BeClosed())
		return func(name string) string {
			request := new(miekg.Msg).SetQuestion(name+".shop.svc.cluster.local.", miekg.TypeA)
			reply, _, err := (&miekg.Client{Timeout: 10 * time.Second}).Exchange(request, address.String())
			if err != nil {
				return err.Error()
			}
			if len(reply.Answer) == 1 {
				return reply.Answer[0].(*miekg.A).A.String()
			}
			return fmt.Sprint(miekg.RcodeToString[reply.Rcode], " ", len(reply.Answer))
		}, stop
	}

	DescribeTable("that another version left", func(content string, readable bool) {
		file := filepath.Join(GinkgoT().TempDir(), "dns.json")
		Expect(os.WriteFile(file, []byte(content), 0o600)).To(Succeed())

		By("it is read, or nothing is known, while the API is away")
		ask, stop := serve(rest("https://127.0.0.1:1"), file)
		if readable {
			Expect(ask("old")).To(Equal("10.96.0.50"))
			Expect(ask("pods-0.pods")).To(Equal("10.244.1.5"))
			Expect(ask("new")).To(Equal("NXDOMAIN 0"))
		} else {
			Expect(ask("old")).To(Equal("SERVFAIL 0"), "a name that is not known may exist")
		}
		stop()

		By("it is replaced when the API answers")
		ask, stop = serve(api.Config, file)
		Eventually(ask).WithArguments("new").WithTimeout(30 * time.Second).Should(Equal("10.96.0.60"))
		Eventually(ask).WithArguments("old").WithTimeout(30 * time.Second).Should(Equal("NXDOMAIN 0"))
		stop()
		ask, _ = serve(rest("https://127.0.0.1:1"), file)
		Expect(ask("new")).To(Equal("10.96.0.60"))
		Expect(ask("old")).To(Equal("NXDOMAIN 0"))
	},
		Entry("with whole objects", whole, true),
		Entry("with whole objects, cut off", whole[:len(whole)/2], false),
		Entry("without anything", "", false),
		Entry("with another shape", `[{"services":{}}]`, false),
		Entry("with objects of another shape", `{"services":[{"metadata":"old"}],"endpointSlices":[]}`, false),
		Entry("that is no text", "k8s\x00\n\x0f\xff\xfe"+strings.Repeat("\x80", 100), false),
	)

	It("knows the pods of a headless service as they are, however often it was asked before", func(ctx SpecContext) {
		file := filepath.Join(GinkgoT().TempDir(), "dns.json")
		Expect(os.WriteFile(file, []byte(whole), 0o600)).To(Succeed())
		ask, _ := serve(api.Config, file)
		Expect(ours.Create(ctx, upstream.FromService(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "pods"}, Spec: corev1.ServiceSpec{ClusterIP: "None"},
		}))).To(Succeed())
		slice := upstream.FromEndpointSlice(&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "pods-1", Labels: map[string]string{discoveryv1.LabelServiceName: "pods"}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.6"}}},
		})
		Expect(ours.Create(ctx, slice)).To(Succeed())
		Eventually(ask).WithArguments("pods").WithTimeout(30 * time.Second).Should(Equal("10.244.1.6"))
		for _, address := range []string{"10.244.1.7", "10.244.1.8"} {
			slice.Endpoints[0].Addresses = []string{address}
			Expect(ours.Update(ctx, slice)).To(Succeed())
			Eventually(ask).WithArguments("pods").WithTimeout(30 * time.Second).Should(Equal(address))
		}
		Expect(ours.Delete(ctx, slice)).To(Succeed())
		Eventually(ask).WithArguments("pods").WithTimeout(30 * time.Second).Should(Equal("NOERROR 0"))
	}, SpecTimeout(2*time.Minute))
})
