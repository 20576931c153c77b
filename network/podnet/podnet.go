package podnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/internal/node"
	"drayage.dev/network/ipam"
	"drayage.dev/network/kernel"
)

// ErrNoPodRange says that the node controller has not given the node its pod addresses yet. It passes
// by itself; the caller tries again.
var ErrNoPodRange = errors.New("the node has no pod addresses yet (spec.podCIDR is empty)")

// repairInterval is how often Run puts back what somebody else took away, and removes links whose pod
// is gone but whose network namespace lives on.
const repairInterval = 10 * time.Second

// Config says where the node stands in the network.
type Config struct {
	// StateDir keeps the addresses in use. It survives restarts and is the Manager's alone.
	StateDir string
	// NodeAddresses are the node's own addresses, the primary one of a family first. The node's
	// processes talk to pods and services from them.
	NodeAddresses []netip.Addr
	// PodRanges and ServiceRanges are the cluster's. Nothing to them leaves the node unless somebody
	// has a better route, and traffic between pods and to services is not masqueraded.
	PodRanges     []netip.Prefix
	ServiceRanges []netip.Prefix
	// Shared says that the pods of another network live on the node, too. The other nodes know no way back
	// to those, so what they send to pods there leaves with the node's address.
	Shared bool
	// MTU is the pods' links', in bytes; 0 means the uplink's.
	MTU int
	// NetNS is the path of the node's network namespace; empty means the process's.
	NetNS string
	// Log is told of repairs; the zero value discards.
	Log logr.Logger
}

// Manager wires the pods of one node. Its methods may be called from any goroutine.
type Manager struct {
	cfg    Config
	ns     *kernel.Namespace
	handle *netlink.Handle
	pool   *ipam.Pool

	// mu keeps the truth (the pool) and the kernel in step: the kernel has one lock for all links
	// anyway, so pods would not be wired faster side by side.
	mu    sync.Mutex
	cidrs []netip.Prefix
	// peers are the other nodes, sorted by name; heard says that they were told of, ever.
	peers []Peer
	heard bool
	// asked are the questions to the far ends of the tunnel to lost peers, by the range behind them.
	asked map[netip.Prefix]question
	// peerErr is why the last attempt to route to peers was not complete.
	peerErr error
}

// New opens the node's addresses and network namespace. It changes nothing in the kernel. Close ends it.
func New(cfg Config) (*Manager, error) {
	pool, err := ipam.Open(filepath.Join(cfg.StateDir, "addresses"))
	if err != nil {
		return nil, err
	}
	ns, err := kernel.OpenNamespace(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	handle, err := ns.Netlink(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	m := &Manager{cfg: cfg, ns: ns, handle: handle, pool: pool}
	// Pods can be wired while the API is away, with the ranges last heard of.
	if content, err := os.ReadFile(m.cidrFile()); err == nil {
		_ = json.Unmarshal(content, &m.cidrs)
	}
	if content, err := os.ReadFile(m.peerFile()); err == nil {
		m.heard = json.Unmarshal(content, &m.peers) == nil
	}
	return m, nil
}

// Close releases the Manager's sockets. The pods stay wired.
func (m *Manager) Close() error {
	m.handle.Close()
	return m.ns.Close()
}

func (m *Manager) cidrFile() string { return filepath.Join(m.cfg.StateDir, "pod-cidrs") }

// SetPodCIDRs tells which addresses are this node's to give (spec.podCIDRs), at most one range of each
// family, and adapts routes and masquerade. It is remembered across restarts; calling it again with
// the same ranges costs nothing. Until its first call Add answers ErrNoPodRange.
func (m *Manager) SetPodCIDRs(ctx context.Context, cidrs []netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(cidrs) == 0 || slices.Equal(m.cidrs, cidrs) {
		return nil
	}
	if err := remember(m.cidrFile(), cidrs); err != nil {
		return fmt.Errorf("remembering pod CIDRs: %w", err)
	}
	m.cidrs = slices.Clone(cidrs)
	return m.setupNode(ctx)
}

// remember writes a value to a file, wholly or not at all.
func remember(file string, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return err
	}
	temporary := file + ".tmp"
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, file)
}

// owner is a sandbox's key: a pod whose sandbox is made again gets a new address, and the late removal
// of the old sandbox takes nothing from the new one.
func owner(pod node.PodRef) string {
	if pod.SandboxID != "" {
		return pod.SandboxID
	}
	return string(pod.UID)
}

// Add wires the sandbox's network namespace, or returns the attachment that it has. It answers
// ErrNoPodRange and ipam.ErrExhausted (wrapped) when there is no address to give.
func (m *Manager) Add(_ context.Context, pod node.PodRef) (node.Attachment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.cidrs) == 0 {
		return node.Attachment{}, ErrNoPodRange
	}
	key := owner(pod)
	w, err := m.acquire(key, pod)
	if err == nil {
		err = m.wire(w, pod.NetNS)
	}
	if err != nil {
		return node.Attachment{}, errors.Join(
			fmt.Errorf("wiring pod %s/%s: %w", pod.Namespace, pod.Name, err), m.unwire(key))
	}
	return w.attachment(), nil
}

func (m *Manager) acquire(key string, pod node.PodRef) (wiring, error) {
	w := wiring{link: kernel.LinkName(key)}
	for _, cidr := range m.cidrs {
		address, err := m.pool.Acquire(key, note(pod), cidr)
		if err != nil {
			return w, err
		}
		w.addresses = append(w.addresses, address)
	}
	mtu, err := m.mtu()
	w.mtu = mtu
	return w, err
}

func note(pod node.PodRef) string {
	return fmt.Sprintf("%s/%s %s", pod.Namespace, pod.Name, pod.UID)
}

// Remove takes the wiring and the addresses back; it returns nil when there is none. Packets to the
// pod are answered unreachable at once; its link goes with the network namespace, or in Run.
func (m *Manager) Remove(_ context.Context, pod node.PodRef) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.unroute(owner(pod)); err != nil {
		return fmt.Errorf("removing routes of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return m.pool.Release(owner(pod))
}

// Check tells whether the sandbox is wired as Add left it.
func (m *Manager) Check(_ context.Context, pod node.PodRef) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := owner(pod)
	for _, lease := range m.pool.Leases() {
		if lease.Owner == key {
			return m.checkRoute(kernel.LinkName(key), lease.Address)
		}
	}
	return fmt.Errorf("pod %s/%s has no address", pod.Namespace, pod.Name)
}

// Restore is called once, before anything else, with the sandboxes that live: it gives back what
// belongs to none of them, and puts back routes that live ones have lost.
func (m *Manager) Restore(ctx context.Context, live []node.PodRef) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	alive, inUse := map[string]bool{}, map[netip.Addr]bool{}
	for _, pod := range live {
		alive[owner(pod)] = true
		for _, address := range pod.Addresses {
			inUse[address] = true
		}
	}
	// An address that the runtime remembers stays taken even if it does not say by which sandbox.
	errs := []error{m.pool.Retain(func(lease ipam.Lease) bool { return alive[lease.Owner] || inUse[lease.Address] })}
	for _, lease := range m.pool.Leases() {
		delete(inUse, lease.Address)
	}
	for _, pod := range live {
		for _, address := range pod.Addresses {
			if inUse[address] && m.owns(address) {
				errs = append(errs, m.pool.Adopt(owner(pod), note(pod), address))
			}
		}
	}
	return errors.Join(append(errs, m.setupNode(ctx))...)
}

func (m *Manager) owns(address netip.Addr) bool {
	return slices.ContainsFunc(m.cidrs, func(cidr netip.Prefix) bool { return cidr.Contains(address) })
}

// Run repairs the node's routes, rules and table, and removes dead links, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	ticker := time.NewTicker(repairInterval)
	defer ticker.Stop()
	for {
		if err := m.repair(ctx); err != nil {
			m.cfg.Log.Error(err, "Could not repair the node's pod network, will try again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (m *Manager) repair(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.setupNode(ctx)
}
