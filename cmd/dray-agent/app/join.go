package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/kubelet/network/dns"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent/images"
	agentnode "drayage.dev/agent/node"
	"drayage.dev/agent/objects"
	"drayage.dev/agent/podworker"
	"drayage.dev/agent/streaming"
	"drayage.dev/agent/volumes"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
)

// maxReportedImages bounds the images in the Node's status, as kubelet does.
const maxReportedImages = 50

func (a *agent) nodeConfig(runtimeVersion string) agentnode.Config {
	return agentnode.Config{
		Name: a.NodeName, Hostname: a.hostname, Addresses: a.addresses, Labels: a.NodeLabels, Slot: corev1.ResourceList(a.slot), Reserved: a.reserved,
		MaxPods: a.MaxPods, DataDir: a.agentDir(), RuntimeVersion: runtimeVersion, StreamingPort: a.streamingPort,
		Checks: []func(context.Context) error{a.runtimeReady, a.networkReady}, Images: a.reportedImages,
		Network: func() error { return a.network.Ready() },
	}
}

// runtimeReady asks the container runtime how it is.
func (a *agent) runtimeReady(ctx context.Context) error {
	answer, err := runtimeapi.NewRuntimeServiceClient(a.conn).Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return errors.New("the container runtime does not answer")
	}
	for _, condition := range answer.Status.GetConditions() {
		// Runtimes add conditions of their own, such as containerd's warnings of what it will drop.
		needed := condition.Type == runtimeapi.RuntimeReady || condition.Type == runtimeapi.NetworkReady
		if needed && !condition.Status {
			return fmt.Errorf("%s: %s", condition.Type, condition.Message)
		}
	}
	return nil
}

// networkReady says whether pods can get addresses.
func (a *agent) networkReady(context.Context) error {
	if node := a.reporter.Node(); node == nil || node.Spec.PodCIDR == "" {
		return errors.New("the node has no pod addresses yet: its spec.podCIDR is empty")
	}
	return nil
}

// reportedImages are the largest images, as the scheduler wants to know them.
func (a *agent) reportedImages(ctx context.Context) ([]corev1.ContainerImage, error) {
	answer, err := runtimeapi.NewImageServiceClient(a.conn).ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(answer.Images, func(x, y *runtimeapi.Image) int {
		if x.Size != y.Size {
			return int(min(max(int64(y.Size)-int64(x.Size), -1), 1))
		}
		return slices.Compare([]string{x.Id}, []string{y.Id})
	})
	var reported []corev1.ContainerImage
	for _, image := range answer.Images[:min(len(answer.Images), maxReportedImages)] {
		names := append(slices.Sorted(slices.Values(image.RepoDigests)), slices.Sorted(slices.Values(image.RepoTags))...)
		reported = append(reported, corev1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: int64(image.Size)})
	}
	return reported, nil
}

// joinPods makes the pod workers of the parts that they drive, and takes over what runs on the node.
func (a *agent) joinPods(ctx context.Context, cancel context.CancelCauseFunc) (err error) {
	if a.objects, err = objects.New(objects.Config{REST: a.rest, Node: a.NodeName, Changed: func(pods []types.UID) { a.pods.Changed(pods) }}); err != nil {
		return err
	}
	a.volumes = volumes.New(volumes.Config{
		PodsDir: a.agentDir("pods"), Objects: a.objects, NodeName: a.NodeName, Allocatable: a.allocatable,
	})
	recorder := podworker.PodRecorder{EventRecorder: a.recorder}
	var nodeIPs []net.IP
	for _, address := range a.addresses {
		nodeIPs = append(nodeIPs, address.AsSlice())
	}
	resolver := dns.NewConfigurer(recorder, a.nodeRef(), nodeIPs, a.dns, a.ClusterDomain, a.ResolvConf)
	a.pods = podworker.New(podworker.Config{
		Client: a.client, Node: a.reporter.Node, HostIPs: a.addresses, Hostname: a.hostname, MachineMemory: a.memory,
		Runtime: a.runtime, Containers: a.runtime, Execs: a.runtime, Events: a.runtime,
		Images: images.New(images.Config{
			Images: runtimeapi.NewImageServiceClient(a.conn), Recorder: recorder, Ref: podworker.Ref,
		}),
		Objects: a.objects, Withdrawal: a.withdrawal, Network: a.network, Volumes: a.volumes, Cgroups: a.tree,
		ClusterDomain: a.ClusterDomain, DNS: resolver.GetPodDNS, Services: a.servicesOf, Recorder: recorder,
		PodsDir: a.agentDir("pods"), LogsDir: a.agentDir("logs", "pods"), CgroupRoot: a.CgroupRoot, SeccompDir: a.agentDir("seccomp"),
	})
	if err := a.pods.Restore(ctx); err != nil {
		return err
	}
	a.part(ctx, cancel, "following the pods' objects", func(ctx context.Context) error {
		a.objects.Run(ctx)
		return nil
	})
	return nil
}

func (a *agent) allocatable() corev1.ResourceList {
	if node := a.reporter.Node(); node != nil {
		return node.Status.Allocatable
	}
	return nil
}

// nodeRef is the node as the object of events.
func (a *agent) nodeRef() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: dcorev1.GroupVersion.String(), Kind: "Node", Name: a.NodeName, UID: types.UID(a.NodeName)}
}

// servicesOf returns what the containers of a namespace's pods find in their environment.
func (a *agent) servicesOf(ctx context.Context, namespace string) ([]*corev1.Service, error) {
	list := &dcorev1.ServiceList{}
	if err := a.cache.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	var found []*corev1.Service
	for i := range list.Items {
		found = append(found, upstream.Service(&list.Items[i]))
	}
	if namespace != metav1.NamespaceDefault {
		kubernetes := &dcorev1.Service{}
		err := a.cache.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}, kubernetes)
		if client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		if err == nil {
			found = append(found, upstream.Service(kubernetes))
		}
	}
	return found, nil
}

// startStreaming serves logs and exec to the API server, where the node has a certificate.
func (a *agent) startStreaming(ctx context.Context, cancel context.CancelCauseFunc) error {
	if a.listener == nil {
		return nil
	}
	authority, err := os.ReadFile(a.ClientCAFile)
	if err != nil {
		return fmt.Errorf("reading the authority of clients: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return fmt.Errorf("reading the authority of clients: no certificate in %s", a.ClientCAFile)
	}
	server := streaming.New(streaming.Config{
		Listener: a.listener, GetCertificate: a.certificate(), ClientCAs: pool,
		Pods: a.pods, Runtime: runtimeapi.NewRuntimeServiceClient(a.conn), Check: a.checker(),
	})
	a.part(ctx, cancel, "serving streams", server.Run)
	return nil
}

// certificate returns where the serving certificate comes from; nil when the node has none.
func (r *resolved) certificate() func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if r.ServingCertificate != nil {
		return r.ServingCertificate
	}
	if r.TLSCertFile == "" {
		return nil
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(r.TLSCertFile, r.TLSKeyFile)
		return &pair, err
	}
}

// listen opens the streaming server's port, before the Node shows it.
func (a *agent) listen() error {
	if a.certificate() == nil {
		return nil
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(a.addresses[0].String(), strconv.Itoa(a.StreamingPort)))
	if err != nil {
		return fmt.Errorf("opening the port for logs and exec: %w; choose another with --streaming-port", err)
	}
	a.listener, a.streamingPort = listener, int32(listener.Addr().(*net.TCPAddr).Port)
	return nil
}
