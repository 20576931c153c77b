package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"

	dcorev1 "drayage.dev/apis/core/v1"
)

// client is the framework's client: the real one, but for pods, which are Drayage's. Only the calls that
// the framework makes are redirected. All others reach the API server's own pods, if it has any, where
// the scheduler's role allows nothing.
type client struct {
	kubernetes.Interface
	pods *podWriter
}

func (c *client) CoreV1() typedcorev1.CoreV1Interface {
	return coreClient{c.Interface.CoreV1(), c.pods}
}

type coreClient struct {
	typedcorev1.CoreV1Interface
	pods *podWriter
}

func (c coreClient) Pods(namespace string) typedcorev1.PodInterface {
	return podClient{c.CoreV1Interface.Pods(namespace), c.pods, namespace}
}

type podClient struct {
	typedcorev1.PodInterface
	pods      *podWriter
	namespace string
}

func (c podClient) Get(ctx context.Context, name string, _ metav1.GetOptions) (*corev1.Pod, error) {
	return c.pods.live(ctx, c.namespace, name)
}

func (c podClient) Bind(ctx context.Context, binding *corev1.Binding, _ metav1.CreateOptions) error {
	defer c.pods.pace.write()()
	err := c.pods.bind(ctx, binding)
	if err == nil {
		bindings.WithLabelValues("bound").Inc()
	} else {
		bindings.WithLabelValues("refused").Inc()
	}
	return err
}

func (c podClient) Delete(ctx context.Context, name string, options metav1.DeleteOptions) error {
	return c.pods.core.Delete().Namespace(c.namespace).Resource("pods").Name(name).Body(&options).Do(ctx).Error()
}

func (c podClient) Patch(
	ctx context.Context, name string, kind types.PatchType, data []byte, _ metav1.PatchOptions, subresources ...string,
) (*corev1.Pod, error) {
	if kind != types.StrategicMergePatchType || len(subresources) != 1 || subresources[0] != "status" {
		return nil, fmt.Errorf("patching pod %s/%s: the scheduler patches the status only, by strategic merge", c.namespace, name)
	}
	return c.pods.patchStatus(ctx, c.namespace, name, data)
}

// podWriter is the only writer of pods in this package.
type podWriter struct {
	core rest.Interface
	pace *pace
	// cached and nodes are set before the first write.
	cached corelisters.PodLister
	nodes  corelisters.NodeLister
}

// live reads a pod from the API server, in the framework's view.
func (w *podWriter) live(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &dcorev1.Pod{}
	if err := w.core.Get().Namespace(namespace).Resource("pods").Name(name).Do(ctx).Into(pod); err != nil {
		return nil, err
	}
	return podView(pod), nil
}

// metadataOnly asks for as little of the written object as can be had.
const metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

// patch writes a merge patch. The API server need not look for unknown fields, nor send what nobody reads.
func (w *podWriter) patch(ctx context.Context, pod *corev1.Pod, body []byte, subresources ...string) error {
	return w.core.Patch(types.MergePatchType).Namespace(pod.Namespace).Resource("pods").Name(pod.Name).
		SubResource(subresources...).Param("fieldValidation", metav1.FieldValidationIgnore).SetHeader("Accept", metadataOnly).
		Body(body).Do(ctx).Error()
}
