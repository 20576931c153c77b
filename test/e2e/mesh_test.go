package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/cluster"
)

// mesh is a cluster of several nodes with a pod of one application on each, and a machine beside it.
type mesh struct {
	*cluster.Cluster
	namespace string
	outside   *cluster.Outside
	// pods are the application's, by node, and inPod their network namespaces.
	pods  map[string]dcorev1.Pod
	inPod map[string]*cluster.Namespace
}

// start starts the cluster and applies the manifest perNode for each node, whose name replaces NODE, and the
// manifest others, in which the outside's address replaces OUTSIDE. It waits for the pods that carry the labels.
func (m *mesh) start(ctx context.Context, options cluster.Options, perNode, others string, application labels.Set) {
	GinkgoHelper()
	var err error
	m.Cluster, err = cluster.Start(ctx, options)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		Expect(m.Close()).To(Succeed())
		for _, node := range m.Nodes {
			Expect(node.Leftovers()).To(BeEmpty())
		}
	})
	m.outside, err = m.NewOutside()
	Expect(err).NotTo(HaveOccurred())
	object := &corev1.Namespace{}
	object.Name = m.namespace
	Expect(m.Client.Create(ctx, object)).To(Succeed())
	text := ""
	for _, node := range m.Nodes {
		text += strings.ReplaceAll(perNode, "NODE", node.Name)
	}
	apply(ctx, m.Cluster, m.namespace, text+strings.ReplaceAll(others, "OUTSIDE", m.outside.Address.String()))
	m.pods, m.inPod = map[string]dcorev1.Pod{}, map[string]*cluster.Namespace{}
	for _, pod := range readyPods(ctx, m.Cluster, m.namespace, application, len(m.Nodes)) {
		m.pods[pod.Spec.NodeName] = pod
	}
	for _, node := range m.Nodes {
		m.inPod[node.Name], err = node.PodNamespace(m.pods[node.Name].UID)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(m.inPod[node.Name].Close)
	}
}

// dump prints what there is when a spec has failed.
func (m *mesh) dump(ctx SpecContext) {
	if !CurrentSpecReport().Failed() || m.Cluster == nil {
		return
	}
	describe(ctx, m.Cluster, m.namespace)
	fmt.Fprintln(GinkgoWriter, m.Tails(40))
	for _, node := range m.Nodes {
		for _, argv := range [][]string{{"ip", "route"}, {"ip", "-d", "link", "show", "type", "vxlan"}, {"nft", "list", "ruleset"}} {
			out, err := node.Exec(ctx, argv...)
			fmt.Fprintln(GinkgoWriter, node.Name, argv, out, err)
		}
	}
}

func (m *mesh) service(ctx context.Context, name string) *dcorev1.Service {
	GinkgoHelper()
	s := &dcorev1.Service{}
	Expect(m.Client.Get(ctx, client.ObjectKey{Namespace: m.namespace, Name: name}, s)).To(Succeed())
	return s
}

// change patches a service.
func (m *mesh) change(ctx context.Context, service, patch string) {
	GinkgoHelper()
	_, err := m.Kubectl(ctx, "patch", "services.core.drayage.dev", service, "-n", m.namespace, "--type=merge", "-p", patch)
	Expect(err).NotTo(HaveOccurred())
}

// everyone are a pod and a process of each node, and the outside.
func (m *mesh) everyone() map[string]*cluster.Namespace {
	from := map[string]*cluster.Namespace{"outside": m.outside.Namespace}
	for _, node := range m.Nodes {
		from[node.Name], from["pod of "+node.Name] = node.Namespace, m.inPod[node.Name]
	}
	return from
}

// all are the names of the application's pods.
func (m *mesh) all() map[string]bool {
	names := map[string]bool{}
	for _, pod := range m.pods {
		names[pod.Name] = true
	}
	return names
}

// setReady makes the pod of a node ready or not.
func (m *mesh) setReady(node string, is bool) {
	GinkgoHelper()
	setReadyAt(m.Nodes[0], m.pods[node].Status.PodIP, is)
}

// setReadyAt makes the demo application at a pod's address ready or not, from a node.
func setReadyAt(from *cluster.Node, address string, is bool) {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s:8080/ready/%t", address, is), nil)
	Expect(err).NotTo(HaveOccurred())
	response, err := (&http.Transport{DialContext: from.Namespace.DialContext, DisableKeepAlives: true}).RoundTrip(request)
	Expect(err).NotTo(HaveOccurred())
	Expect(response.Body.Close()).To(Succeed())
}

func at(address any, port int32) string { return fmt.Sprintf("%s:%d", address, port) }

// answer is who answered, the address of the client that it saw, and what image runs there.
type answer struct{ Pod, Client, Image string }

const (
	// patience is how long a client waits for an answer that should come.
	patience = 15 * time.Second
	// glance is how long one waits where nothing may come, or where it asks again.
	glance = 2 * time.Second
)

// ask opens a connection of its own, or sends one datagram.
func ask(from *cluster.Namespace, network, address string) (a answer, err error) {
	return askWith(from, network, address, "", patience)
}

// askWith is ask with more to say, and a bound.
func askWith(from *cluster.Namespace, network, address, more string, patience time.Duration) (a answer, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if network == "udp" {
		conn, err := from.DialContext(ctx, network, address)
		if err != nil {
			return a, err
		}
		defer conn.Close()
		return askOn(conn, more)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/?"+more, nil)
	if err != nil {
		return a, err
	}
	transport := &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return a, err
	}
	return read(body)
}

// askOn sends a datagram on a socket and waits for the answer.
func askOn(conn net.Conn, more string) (a answer, err error) {
	_ = conn.SetDeadline(time.Now().Add(glance))
	if _, err := fmt.Fprintln(conn, "who"+more); err != nil {
		return a, err
	}
	body := make([]byte, 512)
	n, err := conn.Read(body)
	if err != nil {
		return a, err
	}
	return read(body[:n])
}

func read(body []byte) (a answer, err error) {
	if err := json.Unmarshal(body, &a); err != nil {
		return a, fmt.Errorf("%w: %s", err, body)
	}
	host, _, _ := strings.Cut(a.Client, ":")
	return answer{a.Pod, host, a.Image}, nil
}

// reached asks often and returns who answered.
func reached(from *cluster.Namespace, network, address string) func() (map[string]bool, error) {
	return func() (map[string]bool, error) {
		found := map[string]bool{}
		for range 30 {
			a, err := ask(from, network, address)
			if err != nil {
				return found, fmt.Errorf("%s %s: %w", network, address, err)
			}
			found[a.Pod] = true
		}
		return found, nil
	}
}

// refused asks once and returns the error.
func refused(from *cluster.Namespace, network, address string) func() error {
	return func() error {
		a, err := askWith(from, network, address, "", glance)
		if err == nil {
			return fmt.Errorf("%s answers", a.Pod)
		}
		return err
	}
}
