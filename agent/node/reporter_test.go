package node_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent/node"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/env"
)

func TestNode(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(30 * time.Second)
	RunSpecs(t, "node reporter")
}

var _ = Describe("a node's report", Ordered, func() {
	var (
		api     client.WithWatch
		unwell  atomic.Bool
		begin   func(name string) *node.Reporter
		running = func(r *node.Reporter) {
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { defer close(done); r.Run(ctx) }()
			DeferCleanup(func() { cancel(); Eventually(done).Should(BeClosed()) })
		}
	)
	BeforeAll(func() {
		ctx, cancel := context.WithCancel(context.Background())
		DeferCleanup(cancel)
		server, err := env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(server.Stop()).To(Succeed()) })
		api, err = server.Client()
		Expect(err).NotTo(HaveOccurred())
		Expect(client.IgnoreAlreadyExists(api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: dcorev1.NodeLeaseNamespace}}))).To(Succeed())
		leases, err := kubernetes.NewForConfig(server.Config)
		Expect(err).NotTo(HaveOccurred())
		begin = func(name string) *node.Reporter {
			GinkgoHelper()
			r, err := node.New(node.Config{
				Client: api, Leases: leases, Name: name, Hostname: "machine", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")},
				Labels: map[string]string{"rack": "7"}, Reserved: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
				DataDir: GinkgoT().TempDir(), RuntimeVersion: "containerd://1.6.20", StreamingPort: 10350,
				Checks: []func(context.Context) error{func(context.Context) error {
					if unwell.Load() {
						return errors.New("the runtime is asleep")
					}
					return nil
				}},
			})
			Expect(err).NotTo(HaveOccurred())
			Expect(r.Register(context.Background())).To(Succeed())
			return r
		}
	})
	read := func(name string) dcorev1.Node {
		GinkgoHelper()
		found := dcorev1.Node{}
		Expect(api.Get(context.Background(), client.ObjectKey{Name: name}, &found)).To(Succeed())
		return found
	}

	It("tells what the machine has", func() {
		begin("first")
		found := read("first")
		Expect(found.Labels).To(And(HaveKeyWithValue("rack", "7"), HaveKeyWithValue("kubernetes.io/hostname", "first"), HaveKeyWithValue("kubernetes.io/os", "linux")))
		Expect(found.Status.Addresses).To(ContainElement(corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}))
		Expect(found.Status.DaemonEndpoints.KubeletEndpoint.Port).To(BeEquivalentTo(10350))
		memory, err := node.Memory()
		Expect(err).NotTo(HaveOccurred())
		Expect(found.Status.Capacity.Memory().Value()).To(Equal(memory))
		Expect(found.Status.Allocatable.Memory().Value()).To(Equal(memory - 1<<30))
		Expect(found.Status.Conditions).To(ContainElement(And(HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionTrue))))
		Expect(found.Status.NodeInfo.KernelVersion).NotTo(BeEmpty())
	})

	It("keeps a lease and writes its status only when it changes", func() {
		r := begin("second")
		running(r)
		Eventually(func() (coordinationv1.Lease, error) {
			lease := coordinationv1.Lease{}
			err := api.Get(context.Background(), client.ObjectKey{Namespace: dcorev1.NodeLeaseNamespace, Name: "second"}, &lease)
			return lease, err
		}).Should(And(HaveField("Spec.LeaseDurationSeconds", HaveValue(BeEquivalentTo(40))), HaveField("OwnerReferences", HaveLen(1))))
		before := read("second").ResourceVersion
		r.Nudge()
		Consistently(func() string { return read("second").ResourceVersion }, time.Second).Should(Equal(before))
		unwell.Store(true)
		DeferCleanup(func() { unwell.Store(false) })
		r.Nudge()
		Eventually(func() []corev1.NodeCondition { return read("second").Status.Conditions }).Should(ContainElement(And(
			HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionFalse), HaveField("Message", "the runtime is asleep"))))
	})

	It("keeps what others write, and comes back when its Node is deleted", func() {
		r := begin("third")
		running(r)
		var other dcorev1.Node
		Eventually(func() error {
			other = read("third")
			other.Status.Conditions = append(other.Status.Conditions, corev1.NodeCondition{Type: "Painted", Status: corev1.ConditionTrue})
			return api.Status().Update(context.Background(), &other)
		}).Should(Succeed(), "the reporter may write between")
		unwell.Store(true)
		DeferCleanup(func() { unwell.Store(false) })
		r.Nudge()
		Eventually(func() []corev1.NodeCondition { return read("third").Status.Conditions }).Should(And(
			ContainElement(HaveField("Type", corev1.NodeConditionType("Painted"))),
			ContainElement(And(HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionFalse)))))
		Expect(api.Delete(context.Background(), &other)).To(Succeed())
		unwell.Store(false)
		r.Nudge()
		Eventually(func() error { return api.Get(context.Background(), client.ObjectKey{Name: "third"}, &dcorev1.Node{}) }).Should(Succeed())
		Eventually(func() []corev1.NodeCondition { return read("third").Status.Conditions }).Should(ContainElement(And(
			HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionTrue))))
	})
})
