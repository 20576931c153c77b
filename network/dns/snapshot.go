package dns

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/internal/upstream"
	"drayage.dev/network/watch"
)

// snapshotInterval is how often, at most, the snapshot is written.
const snapshotInterval = 30 * time.Second

// snapshot is the file's content: objects of the API, of which only what the network keeps is read.
type snapshot struct {
	Services []savedService `json:"services"`
	Slices   []savedSlice   `json:"endpointSlices"`
}

type savedService struct{ *watch.Service }

// UnmarshalJSON reads one object, so that there are never more.
func (s *savedService) UnmarshalJSON(content []byte) error {
	service := dcorev1.Service{}
	if err := json.Unmarshal(content, &service); err != nil {
		return err
	}
	s.Service = watch.KeepService(upstream.Service(&service))
	return nil
}

type savedSlice struct{ *watch.EndpointSlice }

// UnmarshalJSON reads one object, so that there are never more.
func (s *savedSlice) UnmarshalJSON(content []byte) error {
	slice := ddiscoveryv1.EndpointSlice{}
	if err := json.Unmarshal(content, &slice); err != nil {
		return err
	}
	s.EndpointSlice = watch.KeepEndpointSlice(upstream.EndpointSlice(&slice))
	return nil
}

// write writes what an Unmarshal reads, one object after the other.
func (s snapshot) write(w io.Writer) error {
	buffered := bufio.NewWriter(w)
	encoder := json.NewEncoder(buffered)
	list := func(before string, count int, object func(int) any) error {
		_, _ = buffered.WriteString(before)
		for i := range count {
			if i > 0 {
				_ = buffered.WriteByte(',')
			}
			if err := encoder.Encode(object(i)); err != nil {
				return err
			}
		}
		return nil
	}
	// What could not be written to the buffer, Flush tells.
	err := errors.Join(
		list(`{"services":[`, len(s.Services), func(i int) any { return upstream.FromService(s.Services[i].Unpack()) }),
		list(`],"endpointSlices":[`, len(s.Slices), func(i int) any { return upstream.FromEndpointSlice(s.Slices[i].Unpack()) }))
	_, _ = buffered.WriteString("]}")
	return errors.Join(err, buffered.Flush())
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
		store.SetService(service.Service)
	}
	for _, slice := range s.Slices {
		store.SetEndpointSlice(slice.EndpointSlice)
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
			s.Services = append(s.Services, savedService{service})
		}
		for _, list := range store.slices {
			for _, slice := range list {
				s.Slices = append(s.Slices, savedSlice{slice})
			}
		}
	}
	store.mu.RUnlock()
	if changes == since {
		return changes, nil
	}
	temporary := file + ".tmp"
	to, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return since, fmt.Errorf("writing the DNS snapshot: %w", err)
	}
	if err := errors.Join(s.write(to), to.Close()); err != nil {
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

func (r *replacement) note(kind string, name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.replaced {
		r.seen[kind+name.String()] = struct{}{}
	}
}

// SetService enters a service.
func (r *replacement) SetService(service *watch.Service) {
	r.note("service ", service.NamespacedName)
	r.Store.SetService(service)
}

// SetEndpointSlice enters a slice.
func (r *replacement) SetEndpointSlice(slice *watch.EndpointSlice) {
	r.note("slice ", slice.NamespacedName)
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
