package watch

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/internal/scheme"
)

// Handler is told of every object and every change, from any goroutine but never twice at once for
// one kind. It must not write to what it is given, but may keep it.
type Handler interface {
	SetService(*dcorev1.Service)
	DeleteService(types.NamespacedName)
	SetEndpointSlice(*ddiscoveryv1.EndpointSlice)
	// DeleteEndpointSlice is told the slice's last resource version, too, which is that of its deletion
	// unless the deletion was only found out later.
	DeleteEndpointSlice(name types.NamespacedName, resourceVersion string)
}

// Run tells the handler of what is there and then of every change, until ctx ends; synced is called
// once, when the handler has been told of everything that was there at the start. While the API is away
// it waits and says nothing.
func Run(ctx context.Context, config *rest.Config, handler Handler, synced func()) error {
	codecs := serializer.NewCodecFactory(scheme.New())
	services, err := follow(ctx, config, codecs, dcorev1.GroupVersion, "services", &dcorev1.Service{}, withoutManagedFields,
		func(o runtime.Object) { handler.SetService(o.(*dcorev1.Service)) },
		func(o runtime.Object) { handler.DeleteService(nameOf(o)) })
	if err != nil {
		return err
	}
	slices, err := follow(ctx, config, codecs, ddiscoveryv1.GroupVersion, "endpointslices", &ddiscoveryv1.EndpointSlice{}, withoutManagedFields,
		func(o runtime.Object) { handler.SetEndpointSlice(o.(*ddiscoveryv1.EndpointSlice)) },
		func(o runtime.Object) { handler.DeleteEndpointSlice(nameOf(o), o.(metav1.Object).GetResourceVersion()) })
	if err != nil {
		return err
	}
	if cache.WaitForCacheSync(ctx.Done(), services.told, slices.told) {
		synced()
	}
	<-services.done
	<-slices.done
	return nil
}

// Nodes tells set of every Node that is there and then of every change, and remove of those that go,
// until ctx ends; synced is called once, as Run calls it. Both are called from one goroutine. Of the
// objects only names, pod ranges and addresses are kept.
func Nodes(ctx context.Context, config *rest.Config, set func(*dcorev1.Node), remove func(name string), synced func()) error {
	nodes, err := follow(ctx, config, serializer.NewCodecFactory(scheme.New()), dcorev1.GroupVersion, "nodes", &dcorev1.Node{}, onlyNetwork,
		func(o runtime.Object) { set(o.(*dcorev1.Node)) }, func(o runtime.Object) { remove(nameOf(o).Name) })
	if err != nil {
		return err
	}
	if cache.WaitForCacheSync(ctx.Done(), nodes.told) {
		synced()
	}
	<-nodes.done
	return nil
}

// onlyNetwork drops what the network has no use for: images alone are kilobytes, and every node keeps
// all nodes.
func onlyNetwork(o any) (any, error) {
	node, ok := o.(*dcorev1.Node)
	if !ok {
		return o, nil
	}
	kept := &dcorev1.Node{}
	kept.Name, kept.UID, kept.ResourceVersion = node.Name, node.UID, node.ResourceVersion
	kept.Spec.PodCIDR, kept.Spec.PodCIDRs = node.Spec.PodCIDR, node.Spec.PodCIDRs
	kept.Status.Addresses = node.Status.Addresses
	return kept, nil
}

func nameOf(o runtime.Object) types.NamespacedName {
	object := o.(metav1.Object)
	return types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
}

// followed is one kind's watch: whether the handler was told of all that was there, and its end.
type followed struct {
	told cache.InformerSynced
	done chan struct{}
}

func follow(ctx context.Context, config *rest.Config, codecs serializer.CodecFactory, group schema.GroupVersion,
	resource string, example runtime.Object, keep cache.TransformFunc, set, remove func(runtime.Object),
) (followed, error) {
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &group
	config.NegotiatedSerializer = codecs.WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return followed{}, fmt.Errorf("making a client for %s: %w", resource, err)
	}
	informer := cache.NewSharedIndexInformer(
		cache.NewListWatchFromClient(client, resource, "", fields.Everything()), example, 0, cache.Indexers{})
	if err := informer.SetTransform(keep); err != nil {
		return followed{}, fmt.Errorf("preparing the watch of %s: %w", resource, err)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { set(o.(runtime.Object)) },
		UpdateFunc: func(_, o any) { set(o.(runtime.Object)) },
		DeleteFunc: func(o any) {
			// A deletion that was only found out later comes with the last version that was seen.
			if missed, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = missed.Obj
			}
			remove(o.(runtime.Object))
		},
	})
	if err != nil {
		return followed{}, fmt.Errorf("preparing the watch of %s: %w", resource, err)
	}
	f := followed{told: registration.HasSynced, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		informer.RunWithContext(ctx)
	}()
	return f, nil
}

// withoutManagedFields halves what is kept of each object.
func withoutManagedFields(o any) (any, error) {
	if object, err := meta.Accessor(o); err == nil {
		object.SetManagedFields(nil)
	}
	return o, nil
}
