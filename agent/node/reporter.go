package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
)

const (
	// leaseDuration is how long the heartbeat is good for, in seconds; it is renewed four times as often.
	leaseDuration = 40
	// look is how often the machine is looked at; full is how often the status is written although
	// nothing has changed.
	look = 10 * time.Second
	full = 5 * time.Minute
	// DefaultMaxPods is kubelet's.
	DefaultMaxPods = 110
)

// Config is what a Reporter needs.
type Config struct {
	// Client and Leases reach the API with the node's identity.
	Client client.Client
	Leases kubernetes.Interface
	// Name is the node's; Hostname the machine's. Addresses are its internal ones, the primary one first.
	Name, Hostname string
	Addresses      []netip.Addr
	// Labels are set beside those that every node has.
	Labels map[string]string
	// Slot is what the node has of the machine; of what it does not name, all.
	Slot corev1.ResourceList
	// Reserved is what pods may not have of that.
	Reserved corev1.ResourceList
	// MaxPods bounds the pods; DefaultMaxPods when zero.
	MaxPods int64
	// DataDir is on the disk that pods write to.
	DataDir string
	// RuntimeVersion is as "containerd://1.6.20".
	RuntimeVersion string
	// StreamingPort is where logs and exec are served; 0 when nowhere.
	StreamingPort int32
	// Checks are asked whether the node can run pods; an error is shown to users.
	Checks []func(ctx context.Context) error
	// Network says what keeps pods from reaching those of other nodes; nil where it is not Drayage's to
	// say. It is the condition NetworkUnavailable.
	Network func() error
	// Images lists what the node has pulled, bounded by the caller; nil means none.
	Images func(ctx context.Context) ([]corev1.ContainerImage, error)
	Clock  clock.WithTicker
}

// Reporter keeps one Node object.
type Reporter struct {
	config  Config
	machine *machine
	wake    chan struct{}

	mu   sync.Mutex
	node *dcorev1.Node
}

// New reads the machine.
func New(config Config) (*Reporter, error) {
	if config.MaxPods == 0 {
		config.MaxPods = DefaultMaxPods
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	machine, err := readMachine(config.DataDir, config.MaxPods)
	if err != nil {
		return nil, fmt.Errorf("reading the machine's capacity: %w", err)
	}
	for name, quantity := range config.Slot {
		if whole, found := machine.capacity[name]; found && quantity.Cmp(whole) > 0 {
			return nil, fmt.Errorf("the slot's %s (%s) is more than the machine has (%s)", name, quantity.String(), whole.String())
		}
		machine.capacity[name] = quantity
	}
	machine.info.ContainerRuntimeVersion = config.RuntimeVersion
	return &Reporter{config: config, machine: machine, wake: make(chan struct{}, 1)}, nil
}

// Connect tells how to reach the API; it is called before Register, by those who know it only later than
// New.
func (r *Reporter) Connect(client client.Client, leases kubernetes.Interface) {
	r.config.Client, r.config.Leases = client, leases
}

// labels are those that the agent keeps on its Node.
func (r *Reporter) labels() map[string]string {
	labels := maps.Clone(r.config.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[corev1.LabelHostname] = r.config.Name
	labels[corev1.LabelOSStable] = r.machine.info.OperatingSystem
	labels[corev1.LabelArchStable] = r.machine.info.Architecture
	return labels
}

// Register makes the Node, or takes over the one that is there, and writes its first status. It tries
// until it succeeds or ctx ends.
func (r *Reporter) Register(ctx context.Context) error {
	log := logr.FromContextOrDiscard(ctx).WithName("node")
	said := ""
	return wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		bounded, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		err := r.register(bounded)
		if err == nil {
			err = r.report(bounded, true)
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			log.Info("Node not registered yet", "node", r.config.Name, "err", said)
		}
		return err == nil, nil
	})
}

func (r *Reporter) register(ctx context.Context) error {
	node := &dcorev1.Node{}
	err := r.config.Client.Get(ctx, client.ObjectKey{Name: r.config.Name}, node)
	if apierrors.IsNotFound(err) {
		node = &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.config.Name, Labels: r.labels()}}
		if err := r.config.Client.Create(ctx, node); err != nil {
			return fmt.Errorf("creating node %s: %w", r.config.Name, err)
		}
		r.Observe(node)
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for node %s: %w", r.config.Name, err)
	}
	before := node.DeepCopy()
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	maps.Copy(node.Labels, r.labels())
	if !maps.Equal(before.Labels, node.Labels) {
		if err := r.config.Client.Patch(ctx, node, client.MergeFrom(before)); err != nil {
			return fmt.Errorf("labelling node %s: %w", r.config.Name, err)
		}
	}
	r.Observe(node)
	return nil
}

// Observe takes a version of the Node from the watch.
func (r *Reporter) Observe(node *dcorev1.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.node = node
}

// Node returns the node as it is known, in upstream's type. It is never nil once Register has returned.
func (r *Reporter) Node() *corev1.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.node == nil {
		return nil
	}
	return upstream.Node(r.node)
}

// Nudge has the node looked at soon.
func (r *Reporter) Nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run keeps lease and status until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	var parts sync.WaitGroup
	defer parts.Wait()
	heartbeat := lease.NewController(r.config.Clock, r.config.Leases, r.config.Name, leaseDuration, r.Nudge,
		leaseDuration*time.Second/4, r.config.Name, dcorev1.NodeLeaseNamespace, r.ownLease)
	parts.Go(func() { heartbeat.Run(ctx) })
	log := logr.FromContextOrDiscard(ctx).WithName("node")
	ticker := r.config.Clock.NewTicker(look)
	defer ticker.Stop()
	written := r.config.Clock.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		case <-r.wake:
		}
		due := r.config.Clock.Since(written) >= full
		bounded, cancel := context.WithTimeout(ctx, look)
		err := r.report(bounded, due)
		if apierrors.IsNotFound(err) {
			// Someone has deleted the Node of a machine that lives.
			err = r.register(bounded)
			r.Nudge()
		}
		cancel()
		switch {
		case err != nil && ctx.Err() == nil:
			log.Info("Node status not written, trying again", "err", err.Error())
		case due:
			written = r.config.Clock.Now()
		}
	}
}

// ownLease makes the lease go with its Node.
func (r *Reporter) ownLease(object *coordinationv1.Lease) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.node != nil && len(object.OwnerReferences) == 0 {
		object.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: dcorev1.GroupVersion.String(), Kind: "Node", Name: r.node.Name, UID: r.node.UID,
		}}
	}
	return nil
}

// report writes the status if it has changed in more than its times, or if forced.
func (r *Reporter) report(ctx context.Context, force bool) error {
	r.mu.Lock()
	base := r.node
	r.mu.Unlock()
	now := r.status(ctx, base)
	if !force && same(&base.Status.NodeStatus, &now) {
		return nil
	}
	before, err := json.Marshal(map[string]any{"status": base.Status})
	if err != nil {
		return err
	}
	after, err := json.Marshal(map[string]any{"status": dcorev1.NodeStatus{
		NodeStatus: now, ObservedGeneration: base.Status.ObservedGeneration, Summary: base.Status.Summary,
	}})
	if err != nil {
		return err
	}
	patch, err := jsonpatch.CreateMergePatch(before, after)
	if err != nil {
		return err
	}
	// Conditions are a list, replaced whole.
	var fields map[string]any
	if err := json.Unmarshal(patch, &fields); err != nil {
		return err
	}
	fields["metadata"] = map[string]any{"resourceVersion": base.ResourceVersion}
	// Empty texts look unchanged to the comparison, but the schema requires them to be there.
	changed, _ := fields["status"].(map[string]any)
	if changed == nil {
		changed = map[string]any{}
		fields["status"] = changed
	}
	changed["nodeInfo"] = now.NodeInfo
	if patch, err = json.Marshal(fields); err != nil {
		return err
	}
	written := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: base.Name}}
	err = r.config.Client.Status().Patch(ctx, written, client.RawPatch(types.MergePatchType, patch))
	if apierrors.IsConflict(err) {
		if err = r.config.Client.Get(ctx, client.ObjectKeyFromObject(base), written); err == nil {
			r.Observe(written)
			r.Nudge()
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("writing status of node %s: %w", base.Name, err)
	}
	r.Observe(written)
	return nil
}

func (r *Reporter) status(ctx context.Context, base *dcorev1.Node) corev1.NodeStatus {
	var problems []string
	for _, check := range r.config.Checks {
		if err := check(ctx); err != nil {
			problems = append(problems, err.Error())
		}
	}
	status := *base.Status.NodeStatus.DeepCopy()
	status.Capacity, status.Allocatable = r.machine.capacity, r.allocatable()
	status.NodeInfo = r.machine.info
	status.DaemonEndpoints.KubeletEndpoint.Port = r.config.StreamingPort
	status.Addresses = nil
	for _, address := range r.config.Addresses {
		status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address.String()})
	}
	status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: r.config.Hostname})
	status.Conditions = merge(base.Status.Conditions, r.conditions(problems), metav1.NewTime(r.config.Clock.Now()).Rfc3339Copy())
	if r.config.Images != nil {
		if images, err := r.config.Images(ctx); err == nil {
			status.Images = images
		}
	}
	return status
}

func (r *Reporter) allocatable() corev1.ResourceList {
	allocatable := r.machine.capacity.DeepCopy()
	for name, reserved := range r.config.Reserved {
		if quantity, found := allocatable[name]; found {
			quantity.Sub(reserved)
			if quantity.Sign() < 0 {
				quantity.Set(0)
			}
			allocatable[name] = quantity
		}
	}
	return allocatable
}

// same compares statuses but for the times of heartbeats.
func same(a, b *corev1.NodeStatus) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	for _, status := range []*corev1.NodeStatus{a, b} {
		for i := range status.Conditions {
			status.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(a, b)
}
