package applied

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/internal/scheme"
)

// named is how many of the missing nodes an error names.
const named = 5

// NotAcknowledgedError says which Ready nodes have not reported a revision in time.
type NotAcknowledgedError struct {
	Revision uint64
	// Nodes are their names, sorted.
	Nodes []string
}

// Error names the first few nodes.
func (e *NotAcknowledgedError) Error() string {
	names := strings.Join(e.Nodes[:min(len(e.Nodes), named)], ", ")
	if more := len(e.Nodes) - named; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("revision %d of the endpoints is not acknowledged by %s", e.Revision, names)
}

// Ledger is what the nodes have reported. Its methods may be called from any goroutine.
type Ledger struct {
	mu sync.Mutex
	// known says that the Ready nodes are known.
	known bool
	ready map[string]struct{}
	// revisions are the highest that were reported, by node.
	revisions map[string]uint64
	waiters   map[*waiter]struct{}
	// reported, when set, hears of each report of a node to this ledger itself; it does not block.
	reported func(node string, report subresourcesv1alpha1.NodeReport)
}

// waiter is one call of Await: done is closed when no node is missing.
type waiter struct {
	revision uint64
	missing  map[string]struct{}
	done     chan struct{}
}

// New returns a ledger that knows nothing; Follow tells it of nodes.
func New() *Ledger {
	return &Ledger{ready: map[string]struct{}{}, revisions: map[string]uint64{}, waiters: map[*waiter]struct{}{}}
}

// Follow begins to follow the Nodes, and goes on until ctx ends.
func (l *Ledger) Follow(ctx context.Context, config *rest.Config) error {
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &dcorev1.GroupVersion
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme.New()).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return fmt.Errorf("making the client for nodes: %w", err)
	}
	reflector := cache.NewReflectorWithOptions(cache.NewListWatchFromClient(client, "nodes", "", fields.Everything()),
		&dcorev1.Node{}, (*nodes)(l), cache.ReflectorOptions{Name: "acknowledging nodes", MinWatchTimeout: 30 * time.Minute})
	go reflector.RunWithContext(ctx)
	return nil
}

// Report notes that the node's kernel has everything up to the revision. A lower one than before counts,
// too: a node that begins anew has less.
func (l *Ledger) Report(node string, revision uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	report := subresourcesv1alpha1.NodeReport{Revision: revision, Anew: revision < l.revisions[node]}
	l.enter(node, revision)
	if l.reported != nil {
		l.reported(node, report)
	}
}

// Merge notes what nodes have reported to another replica. That took a way of its own, so a lower revision than
// what is known here is an older report, unless the node began anew.
func (l *Ledger) Merge(reports map[string]subresourcesv1alpha1.NodeReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for node, report := range reports {
		if report.Anew || report.Revision > l.revisions[node] {
			l.enter(node, report.Revision)
		}
	}
}

// snapshot returns what is known of the nodes.
func (l *Ledger) snapshot() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.revisions)
}

// enter notes a revision and lets go those who wait for no other. The caller holds l.mu.
func (l *Ledger) enter(node string, revision uint64) {
	l.revisions[node] = revision
	for w := range l.waiters {
		if w.revision <= revision {
			l.acknowledge(w, node)
		}
	}
}

func (l *Ledger) acknowledge(w *waiter, node string) {
	delete(w.missing, node)
	if l.known && len(w.missing) == 0 {
		delete(l.waiters, w)
		close(w.done)
	}
}

// Await returns nil when every Ready node has reported the revision or a higher one. When ctx ends before,
// it returns a *NotAcknowledgedError.
func (l *Ledger) Await(ctx context.Context, revision uint64) error {
	w := &waiter{revision: revision, missing: map[string]struct{}{}, done: make(chan struct{})}
	l.mu.Lock()
	for node := range l.ready {
		if l.revisions[node] < revision {
			w.missing[node] = struct{}{}
		}
	}
	if l.known && len(w.missing) == 0 {
		l.mu.Unlock()
		return nil
	}
	l.waiters[w] = struct{}{}
	l.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiters, w)
	e := &NotAcknowledgedError{Revision: revision}
	for node := range w.missing {
		e.Nodes = append(e.Nodes, node)
	}
	slices.Sort(e.Nodes)
	return e
}

// setNode enters whether a node is Ready.
func (l *Ledger) setNode(name string, ready bool) {
	_, before := l.ready[name]
	switch {
	case ready && !before:
		l.ready[name] = struct{}{}
		for w := range l.waiters {
			if l.revisions[name] < w.revision {
				w.missing[name] = struct{}{}
			}
		}
	case !ready:
		delete(l.ready, name)
		for w := range l.waiters {
			l.acknowledge(w, name)
		}
	}
}

func isReady(node *dcorev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// nodes is the ledger as the reflector's store: it keeps names only.
type nodes Ledger

func (n *nodes) set(o any) error {
	if node, ok := o.(*dcorev1.Node); ok {
		n.mu.Lock()
		defer n.mu.Unlock()
		(*Ledger)(n).setNode(node.Name, isReady(node))
	}
	return nil
}

// Add enters a node.
func (n *nodes) Add(o any) error { return n.set(o) }

// Update enters a node's change.
func (n *nodes) Update(o any) error { return n.set(o) }

// Delete forgets a node.
func (n *nodes) Delete(o any) error {
	node, ok := o.(*dcorev1.Node)
	if !ok {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	(*Ledger)(n).setNode(node.Name, false)
	delete(n.revisions, node.Name)
	return nil
}

// Replace enters all nodes.
func (n *nodes) Replace(list []any, _ string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = true
	all := map[string]bool{}
	for _, o := range list {
		if node, ok := o.(*dcorev1.Node); ok {
			all[node.Name] = isReady(node)
		}
	}
	for name := range n.ready {
		if _, ok := all[name]; !ok {
			(*Ledger)(n).setNode(name, false)
		}
	}
	for name := range n.revisions {
		if _, ok := all[name]; !ok {
			delete(n.revisions, name)
		}
	}
	for name, ready := range all {
		(*Ledger)(n).setNode(name, ready)
	}
	for w := range n.waiters {
		// Those who waited for the list itself.
		(*Ledger)(n).acknowledge(w, "")
	}
	return nil
}

// Resync does nothing.
func (n *nodes) Resync() error { return nil }
