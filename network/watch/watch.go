package watch

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
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
	DeleteEndpointSlice(types.NamespacedName)
}

// Run tells the handler of what is there and then of every change, until ctx ends; synced is called
// once, when the handler has been told of everything that was there at the start. While the API is away
// it waits and says nothing.
func Run(ctx context.Context, config *rest.Config, handler Handler, synced func()) error {
	codecs := serializer.NewCodecFactory(scheme.New())
	services, err := follow(ctx, config, codecs, dcorev1.GroupVersion, "services", &dcorev1.Service{}, withoutManagedFields,
		func(o runtime.Object) { handler.SetService(o.(*dcorev1.Service)) }, handler.DeleteService)
	if err != nil {
		return err
	}
	slices, err := follow(ctx, config, codecs, ddiscoveryv1.GroupVersion, "endpointslices", &ddiscoveryv1.EndpointSlice{}, withoutManagedFields,
		func(o runtime.Object) { handler.SetEndpointSlice(o.(*ddiscoveryv1.EndpointSlice)) }, handler.DeleteEndpointSlice)
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
		func(o runtime.Object) { set(o.(*dcorev1.Node)) }, func(name types.NamespacedName) { remove(name.Name) })
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

// followed is one kind's watch: whether the handler was told of all that was there, and its end.
type followed struct {
	told cache.InformerSynced
	done chan struct{}
}

func follow(ctx context.Context, config *rest.Config, codecs serializer.CodecFactory, group schema.GroupVersion,
	resource string, example runtime.Object, keep cache.TransformFunc, set func(runtime.Object), remove func(types.NamespacedName),
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
			// The name suffices, also for an object whose deletion was only found out later.
			if key, err := cache.DeletionHandlingObjectToName(o); err == nil {
				remove(types.NamespacedName{Namespace: key.Namespace, Name: key.Name})
			}
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
