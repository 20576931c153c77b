package dns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/internal/upstream"
)

// snapshotInterval is how often, at most, the snapshot is written.
const snapshotInterval = 30 * time.Second

// snapshot is the file's content.
type snapshot struct {
	Services []*dcorev1.Service            `json:"services"`
	Slices   []*ddiscoveryv1.EndpointSlice `json:"endpointSlices"`
}

// loadSnapshot enters what the file holds into the store. No file is no error.
func loadSnapshot(file string, store *Store) error {
	if file == "" {
		return nil
	}
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the DNS snapshot: %w", err)
	}
	var s snapshot
	if err := json.Unmarshal(content, &s); err != nil {
		return fmt.Errorf("reading the DNS snapshot %s: %w", file, err)
	}
	for _, service := range s.Services {
		store.SetService(service)
	}
	for _, slice := range s.Slices {
		store.SetEndpointSlice(slice)
	}
	store.SetKnown()
	return nil
}

// keepSnapshot writes the file now and when something has changed since, until ctx ends, and once more
// then.
func keepSnapshot(ctx context.Context, cfg Config, store *Store) {
	ticker := time.NewTicker(snapshotInterval)
	defer ticker.Stop()
	var written uint64
	for {
		changes, err := saveSnapshot(cfg.SnapshotFile, store, written)
		if err != nil {
			cfg.Log.Error(err, "Could not write the DNS snapshot, will try again")
		} else {
			written = changes
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// saveSnapshot writes the file unless the store is as it was at the given count of changes.
func saveSnapshot(file string, store *Store, since uint64) (uint64, error) {
	var s snapshot
	store.mu.RLock()
	changes := store.changes
	if changes != since {
		for _, service := range store.services {
			s.Services = append(s.Services, upstream.FromService(service))
		}
		for _, list := range store.slices {
			for _, slice := range list {
				s.Slices = append(s.Slices, upstream.FromEndpointSlice(slice))
			}
		}
	}
	store.mu.RUnlock()
	if changes == since {
		return changes, nil
	}
	content, err := json.Marshal(s)
	if err != nil {
		return since, fmt.Errorf("encoding the DNS snapshot: %w", err)
	}
	temporary := file + ".tmp"
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return since, fmt.Errorf("writing the DNS snapshot: %w", err)
	}
	if err := os.Rename(temporary, file); err != nil {
		return since, fmt.Errorf("writing the DNS snapshot: %w", err)
	}
	return changes, nil
}

// replacement feeds the store, and notes what it has fed: what the store holds beyond that when the API
// has told everything comes from a snapshot and is gone.
type replacement struct {
	*Store

	mu       sync.Mutex
	replaced bool
	seen     map[string]struct{}
}

func newReplacement(store *Store) *replacement {
	return &replacement{Store: store, seen: map[string]struct{}{}}
}

func (r *replacement) note(kind string, object metav1.Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.replaced {
		r.seen[kind+object.GetNamespace()+"/"+object.GetName()] = struct{}{}
	}
}

// SetService enters a service.
func (r *replacement) SetService(service *dcorev1.Service) {
	r.note("service ", service)
	r.Store.SetService(service)
}

// SetEndpointSlice enters a slice.
func (r *replacement) SetEndpointSlice(slice *ddiscoveryv1.EndpointSlice) {
	r.note("slice ", slice)
	r.Store.SetEndpointSlice(slice)
}

// replace drops what only a snapshot knew: the API has told everything.
func (r *replacement) replace() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replaced = true
	var services, slices []types.NamespacedName
	r.Store.mu.RLock()
	for name := range r.Store.services {
		if _, ok := r.seen["service "+name.String()]; !ok {
			services = append(services, name)
		}
	}
	for name := range r.Store.owners {
		if _, ok := r.seen["slice "+name.String()]; !ok {
			slices = append(slices, name)
		}
	}
	r.Store.mu.RUnlock()
	for _, name := range services {
		r.Store.DeleteService(name)
	}
	for _, name := range slices {
		r.Store.DeleteEndpointSlice(name, "")
	}
	r.seen = nil
	r.Store.SetKnown()
}
