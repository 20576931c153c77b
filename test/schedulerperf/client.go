package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	dschedulingv1 "drayage.dev/apis/scheduling/v1"
	"drayage.dev/internal/scheme"
)

// objects is how the load reaches an API server.
type objects interface {
	node(context.Context, *corev1.Node) error
	pod(context.Context, *corev1.Pod) error
	service(context.Context, *corev1.Service) error
	priority(context.Context, int32) error
	// watch calls see for every pod that is or changes, until ctx ends.
	watch(ctx context.Context, see func(*corev1.Pod)) error
	// end takes a pod that is being deleted from the API, as the agent of its node would.
	end(ctx context.Context, namespace, name string) error
}

func (s *side) client() (objects, kubernetes.Interface, error) {
	config := rest.CopyConfig(s.admin)
	config.QPS = -1
	binaryConfig := rest.CopyConfig(config)
	binaryConfig.ContentType = "application/vnd.kubernetes.protobuf"
	plain, err := kubernetes.NewForConfig(binaryConfig)
	if err != nil {
		return nil, nil, err
	}
	if s.name == peer {
		return coreObjects{plain}, plain, nil
	}
	typed, err := client.New(config, client.Options{Scheme: scheme.New()})
	if err != nil {
		return nil, nil, err
	}
	return drayageObjects{typed, plain.CoreV1().RESTClient()}, plain, nil
}

// coreObjects are Kubernetes' own, in the encoding that Kubernetes' own components use.
type coreObjects struct{ kubernetes.Interface }

func (c coreObjects) node(ctx context.Context, n *corev1.Node) error {
	_, err := c.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{})
	return err
}

func (c coreObjects) pod(ctx context.Context, p *corev1.Pod) error {
	_, err := c.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
	return err
}

func (c coreObjects) service(ctx context.Context, s *corev1.Service) error {
	_, err := c.CoreV1().Services(s.Namespace).Create(ctx, s, metav1.CreateOptions{})
	return err
}

func (c coreObjects) priority(ctx context.Context, value int32) error {
	_, err := c.SchedulingV1().PriorityClasses().Create(ctx,
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: priorityClass(value)}, Value: value}, metav1.CreateOptions{})
	return err
}

func (c coreObjects) watch(ctx context.Context, see func(*corev1.Pod)) error {
	events, err := c.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			return fmt.Errorf("watching pods: %v", event.Object)
		}
		see(pod)
	}
	return ctx.Err()
}

func (c coreObjects) end(ctx context.Context, namespace, name string) error {
	now := int64(0)
	return client.IgnoreNotFound(c.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
}

// drayageObjects are Drayage's.
type drayageObjects struct {
	client.Client
	raw rest.Interface
}

func (c drayageObjects) node(ctx context.Context, n *corev1.Node) error {
	node := &dcorev1.Node{ObjectMeta: n.ObjectMeta, Spec: n.Spec}
	if err := c.Create(ctx, node); err != nil {
		return err
	}
	status, err := json.Marshal(map[string]any{"status": map[string]any{
		"capacity": n.Status.Capacity, "allocatable": n.Status.Allocatable, "conditions": n.Status.Conditions,
	}})
	if err != nil {
		return err
	}
	return c.Status().Patch(ctx, node, client.RawPatch(types.MergePatchType, status))
}

func (c drayageObjects) pod(ctx context.Context, p *corev1.Pod) error {
	// Upstream's test has no admission of service accounts, so that its pods have no volume with a token.
	spec := p.Spec
	spec.AutomountServiceAccountToken = new(bool)
	return c.Create(ctx, &dcorev1.Pod{ObjectMeta: p.ObjectMeta, Spec: spec})
}

func (c drayageObjects) service(ctx context.Context, s *corev1.Service) error {
	return c.Create(ctx, &dcorev1.Service{ObjectMeta: s.ObjectMeta, Spec: s.Spec})
}

func (c drayageObjects) priority(ctx context.Context, value int32) error {
	return c.Create(ctx, &dschedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: priorityClass(value)}, Value: value})
}

func (c drayageObjects) watch(ctx context.Context, see func(*corev1.Pod)) error {
	stream, err := c.raw.Get().AbsPath("/apis/core.drayage.dev/v1/pods").Param("watch", "true").Param("resourceVersion", "0").
		SetHeader("Accept", "application/json").Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		// No more than what see looks at.
		var event struct {
			Object struct {
				Metadata struct {
					Namespace, Name   string
					UID               types.UID
					DeletionTimestamp *metav1.Time
				}
				Spec struct{ NodeName string }
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return fmt.Errorf("watching pods: %w", err)
		}
		o := &event.Object
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name, pod.UID, pod.DeletionTimestamp = o.Metadata.Namespace, o.Metadata.Name, o.Metadata.UID, o.Metadata.DeletionTimestamp
		pod.Spec.NodeName = o.Spec.NodeName
		see(pod)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watching pods: the stream ended: %w", cmp.Or(lines.Err(), io.EOF))
}

func (c drayageObjects) end(ctx context.Context, namespace, name string) error {
	pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	return client.IgnoreNotFound(c.Patch(ctx, pod, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
}
