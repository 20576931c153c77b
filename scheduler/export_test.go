package scheduler

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

// Codecs decode a watch in the general way, WireCodecs as the scheduler does.
var (
	Codecs     runtime.NegotiatedSerializer = codecs
	WireCodecs                              = NewWire(codecs)
)

// NewWire returns what decodes as the scheduler does, on top of another.
func NewWire(on runtime.NegotiatedSerializer) runtime.NegotiatedSerializer { return wire{on} }

// Knows reports whether decisions of s see this version of object. Kinds come by watches of their own, so
// a spec that creates a node and then a pod would otherwise depend on which arrives first.
func Knows(s *Scheduler, object metav1.Object) bool {
	name, version := object.GetName(), object.GetResourceVersion()
	switch object.(type) {
	case *dcorev1.Node:
		info, ok := s.upstream.Cache.Dump().Nodes[name]
		return ok && info.Node() != nil && info.Node().ResourceVersion == version
	case *dcorev1.Service:
		seen, err := s.informers.Core().V1().Services().Lister().Services(object.GetNamespace()).Get(name)
		return err == nil && seen.ResourceVersion == version
	case *dappsv1.ReplicaSet:
		seen, err := s.informers.Apps().V1().ReplicaSets().Lister().ReplicaSets(object.GetNamespace()).Get(name)
		return err == nil && seen.ResourceVersion == version
	}
	return false
}

// BindFrom binds a pod to a node as a scheduler does whose informers have seen these versions last.
func BindFrom(ctx context.Context, config *rest.Config, pod *dcorev1.Pod, node *dcorev1.Node) error {
	core, err := restFor(config, dcorev1.GroupVersion)
	if err != nil {
		return err
	}
	pods, nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil), cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	if err := pods.Add(podView(pod.DeepCopy())); err != nil {
		return err
	}
	if err := nodes.Add(nodeView(node.DeepCopy())); err != nil {
		return err
	}
	w := &podWriter{core: core, cached: corelisters.NewPodLister(pods), nodes: corelisters.NewNodeLister(nodes)}
	return w.bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node.Name},
	})
}

// EventsBehind returns a sink that writes events to next behind bindings, no more than limit of them waiting, and a function that
// begins a binding, whose own return value ends it.
func EventsBehind(ctx context.Context, next events.EventSink, limit int) (sink events.EventSink, begin func() (end func())) {
	p := newPace(ctx)
	s := newEventSink(next, p)
	s.limit = int64(limit)
	return s, p.write
}

// ManyBindings is from how many bindings on events come one at a time.
const ManyBindings = manyBindings
