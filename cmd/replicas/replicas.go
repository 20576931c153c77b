// Package replicas finds the other processes that serve the same API, by the EndpointSlices of the Service that leads
// to them. dray-manager does so on a cluster, `dray server` where several share an etcd. It never talks to them.
package replicas

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// retry is how long an API server that does not serve yet is given before it is asked again.
const retry = time.Second

// Config says whom to look for.
type Config struct {
	// Client reaches the API server that has the EndpointSlices.
	Client *rest.Config
	// Slice is an EndpointSlice of Kubernetes' or of Drayage's.
	Slice client.Object
	// Namespace and Service name the Service.
	Namespace, Service string
	// Self says whether an address is this process's own.
	Self func(netip.AddrPort) bool
	// Reach returns how to reach the replica at an address.
	Reach func(netip.AddrPort) *rest.Config
}

// Follow calls changed with the other replicas, by their addresses, whenever they change, until ctx ends. It returns
// at once.
func Follow(ctx context.Context, config Config, changed func(map[string]*rest.Config)) error {
	restConfig := rest.CopyConfig(config.Client)
	restConfig.ContentType = runtime.ContentTypeJSON // custom resources know no other
	slices, err := cache.New(restConfig, cache.Options{
		Scheme: scheme.New(), SyncPeriod: ptr.To[time.Duration](0),
		DefaultNamespaces:    map[string]cache.Config{config.Namespace: {}},
		DefaultLabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: config.Service}),
	})
	if err != nil {
		return fmt.Errorf("making the cache of replicas: %w", err)
	}
	news := make(chan struct{}, 1)
	tell := func() {
		select {
		case news <- struct{}{}:
		default:
		}
	}
	go func() { _ = slices.Start(ctx) }()
	go func() {
		informer, err := informerOf(ctx, slices, config.Slice)
		if err != nil {
			return // ctx has ended
		}
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { tell() }, UpdateFunc: func(any, any) { tell() }, DeleteFunc: func(any) { tell() },
		}); err != nil {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-news:
			}
			if found, err := config.find(ctx, slices); err == nil {
				changed(found)
			}
		}
	}()
	return nil
}

// informerOf waits for the API server, which may be this very process and not serve yet.
func informerOf(ctx context.Context, slices cache.Cache, slice client.Object) (cache.Informer, error) {
	for {
		informer, err := slices.GetInformer(ctx, slice)
		if err == nil {
			return informer, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(retry):
		}
	}
}

// find returns the replicas that the cache has.
func (c Config) find(ctx context.Context, slices client.Reader) (map[string]*rest.Config, error) {
	found := map[string]*rest.Config{}
	add := func(slice *discoveryv1.EndpointSlice) {
		for _, endpoint := range slice.Endpoints {
			for _, port := range slice.Ports {
				for _, text := range endpoint.Addresses {
					ip, err := netip.ParseAddr(text)
					if err != nil || port.Port == nil {
						continue
					}
					if address := netip.AddrPortFrom(ip, uint16(*port.Port)); !c.Self(address) {
						found[address.String()] = c.Reach(address)
					}
				}
			}
		}
	}
	switch c.Slice.(type) {
	case *ddiscoveryv1.EndpointSlice:
		var list ddiscoveryv1.EndpointSliceList
		if err := slices.List(ctx, &list); err != nil {
			return nil, err
		}
		for i := range list.Items {
			add(upstream.EndpointSlice(&list.Items[i]))
		}
	default:
		var list discoveryv1.EndpointSliceList
		if err := slices.List(ctx, &list); err != nil {
			return nil, err
		}
		for i := range list.Items {
			add(&list.Items[i])
		}
	}
	return found, nil
}

// Host is an address as the host of a URL.
func Host(address netip.AddrPort) string {
	return "https://" + net.JoinHostPort(address.Addr().String(), strconv.Itoa(int(address.Port())))
}
