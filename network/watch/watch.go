package watch

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
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
	"drayage.dev/internal/upstream"
)

// Handler is told of every object and every change, from any goroutine but never twice at once for
// one kind. It may keep what it is given.
type Handler interface {
	SetService(*Service)
	DeleteService(types.NamespacedName)
	SetEndpointSlice(*EndpointSlice)
	// DeleteEndpointSlice is told the slice's last resource version, too, which is that of its deletion
	// unless the deletion was only found out later.
	DeleteEndpointSlice(name types.NamespacedName, resourceVersion string)
}

// Run tells the handler of what is there and then of every change, until ctx ends; synced is called
// once, when the handler has been told of everything that was there at the start. While the API is away
// it waits and says nothing.
func Run(ctx context.Context, config *rest.Config, handler Handler, synced func()) error {
	codecs := serializer.NewCodecFactory(scheme.New())
	services, err := follow(ctx, config, codecs, dcorev1.GroupVersion, "services", &dcorev1.Service{},
		func(service *dcorev1.Service) *Service { return KeepService(upstream.Service(service)) },
		handler.SetService, func(service *Service) { handler.DeleteService(service.NamespacedName) })
	if err != nil {
		return err
	}
	slices, err := follow(ctx, config, codecs, ddiscoveryv1.GroupVersion, "endpointslices", &ddiscoveryv1.EndpointSlice{},
		func(slice *ddiscoveryv1.EndpointSlice) *EndpointSlice {
			return KeepEndpointSlice(upstream.EndpointSlice(slice))
		},
		handler.SetEndpointSlice, func(slice *EndpointSlice) { handler.DeleteEndpointSlice(slice.NamespacedName, slice.ResourceVersion()) })
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
// objects only names, pod ranges, addresses and the condition Ready are kept.
func Nodes(ctx context.Context, config *rest.Config, set func(*dcorev1.Node), remove func(name string), synced func()) error {
	nodes, err := follow(ctx, config, serializer.NewCodecFactory(scheme.New()), dcorev1.GroupVersion, "nodes", &dcorev1.Node{}, onlyNetwork,
		set, func(node *dcorev1.Node) { remove(node.Name) })
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
func onlyNetwork(node *dcorev1.Node) *dcorev1.Node {
	kept := &dcorev1.Node{}
	kept.Name, kept.UID, kept.ResourceVersion = node.Name, node.UID, node.ResourceVersion
	kept.Spec.PodCIDR, kept.Spec.PodCIDRs = node.Spec.PodCIDR, node.Spec.PodCIDRs
	kept.Status.Addresses = node.Status.Addresses
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			// Heartbeats and reasons change nothing.
			kept.Status.Conditions = []corev1.NodeCondition{{Type: condition.Type, Status: condition.Status}}
		}
	}
	return kept
}

// followed is one kind's watch: whether the handler was told of all that was there, and its end.
type followed struct {
	told cache.InformerSynced
	done chan struct{}
}

// follow watches one kind. Of each object, a T, only what keep makes of it is held, a K: the API's objects
// come one after the other, so that there is never a list of them.
func follow[T runtime.Object, K any](ctx context.Context, config *rest.Config, codecs serializer.CodecFactory, group schema.GroupVersion,
	resource string, example T, keep func(T) K, set, remove func(K),
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
	err = informer.SetTransform(func(o any) (any, error) {
		if object, ok := o.(T); ok {
			return keep(object), nil
		}
		return o, nil // kept already
	})
	if err != nil {
		return followed{}, fmt.Errorf("preparing the watch of %s: %w", resource, err)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { set(o.(K)) },
		UpdateFunc: func(_, o any) { set(o.(K)) },
		DeleteFunc: func(o any) {
			// A deletion that was only found out later comes with the last version that was seen.
			if missed, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = missed.Obj
			}
			remove(o.(K))
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
