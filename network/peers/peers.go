package peers

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/network/podnet"
	"drayage.dev/network/watch"
)

// coalesce is how long a change waits for others: nodes come in crowds.
const coalesce = 20 * time.Millisecond

// Network takes what is found. podnet's Manager satisfies it: it tries again by itself what did not work.
type Network interface {
	SetPeers(ctx context.Context, peers []podnet.Peer) error
}

// Config says for whom to follow.
type Config struct {
	// Node is this node's name: it is no peer of itself.
	Node string
	// RESTConfig is the node's way to the API.
	RESTConfig *rest.Config
	Network    Network
	// Told is called whenever the network has been told; nil means nobody wants to know.
	Told func()
	Log  logr.Logger
}

// follower is what is known of the other nodes.
type follower struct {
	Config
	kick chan struct{}

	mu    sync.Mutex
	peers map[string]podnet.Peer
	told  bool
}

// Follow follows the Nodes until ctx ends. The network is told nothing before all of them are known.
func Follow(ctx context.Context, config Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &follower{Config: config, kick: make(chan struct{}, 1), peers: map[string]podnet.Peer{}}
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- watch.Nodes(ctx, config.RESTConfig, f.set, f.remove, f.synced)
	}()
	f.loop(ctx)
	return <-ended
}

func (f *follower) set(node *dcorev1.Node) {
	if node.Name == f.Node {
		return
	}
	peer, ok := peerOf(node)
	if !ok {
		f.remove(node.Name)
		return
	}
	f.mu.Lock()
	same := reflect.DeepEqual(f.peers[node.Name], peer)
	f.peers[node.Name] = peer
	f.mu.Unlock()
	if !same {
		f.wake()
	}
}

func (f *follower) remove(name string) {
	f.mu.Lock()
	delete(f.peers, name)
	f.mu.Unlock()
	f.wake()
}

func (f *follower) synced() {
	f.mu.Lock()
	f.told = true
	f.mu.Unlock()
	f.wake()
}

func (f *follower) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *follower) loop(ctx context.Context) {
	var said []podnet.Peer
	for first := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-f.kick:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(coalesce):
		}
		f.mu.Lock()
		told, peers := f.told, make([]podnet.Peer, 0, len(f.peers))
		for _, peer := range f.peers {
			peers = append(peers, peer)
		}
		f.mu.Unlock()
		slices.SortFunc(peers, func(a, b podnet.Peer) int { return strings.Compare(a.Name, b.Name) })
		if !told || !first && reflect.DeepEqual(peers, said) {
			continue
		}
		first, said = false, peers
		if err := f.Network.SetPeers(ctx, peers); err != nil {
			f.Log.Error(err, "Could not route to the other nodes, will try again", "nodes", len(peers))
		}
		if f.Told != nil {
			f.Told()
		}
	}
}

// peerOf returns what a Node says of itself; not ok while it lacks address or range.
func peerOf(node *dcorev1.Node) (peer podnet.Peer, ok bool) {
	peer.Name = node.Name
	for _, address := range node.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		if parsed, err := netip.ParseAddr(address.Address); err == nil {
			peer.Addresses = append(peer.Addresses, parsed.Unmap())
		}
	}
	ranges := node.Spec.PodCIDRs
	if len(ranges) == 0 {
		ranges = []string{node.Spec.PodCIDR}
	}
	for _, text := range ranges {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			peer.PodCIDRs = append(peer.PodCIDRs, prefix.Masked())
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			peer.Lost = condition.Status == corev1.ConditionUnknown
		}
	}
	return peer, len(peer.Addresses) > 0 && len(peer.PodCIDRs) > 0
}
