package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry serves images over plain HTTP on every listener that it is given.
type Registry struct {
	handler http.Handler

	mutex   sync.Mutex
	servers []*http.Server
}

// NewRegistry returns a registry that holds the images, under the names that docker.io would serve them by.
func NewRegistry(ctx context.Context, images []Image) (*Registry, error) {
	r := &Registry{handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	for _, image := range images {
		if err := r.Push(ctx, image); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Push adds an image while the registry serves.
func (r *Registry) Push(ctx context.Context, image Image) error {
	repo, tag := repository(image.Name)
	// The address is never dialled: requests go straight to the handler.
	reference, err := name.NewTag("localhost/"+repo+":"+tag, name.Insecure)
	if err != nil {
		return fmt.Errorf("naming image %q: %w", image.Name, err)
	}
	if err := remote.Write(reference, image.Image, remote.WithTransport(direct{r.handler}), remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing image %q: %w", image.Name, err)
	}
	return nil
}

// ServeHTTP lets a registry stand behind a handler of the caller's.
func (r *Registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.handler.ServeHTTP(w, request)
}

// Serve answers on a listener until the registry is closed. It may be called several times, for example
// once for the loopback of each node's network namespace.
func (r *Registry) Serve(listener net.Listener) error {
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	r.mutex.Lock()
	r.servers = append(r.servers, server)
	r.mutex.Unlock()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends every Serve.
func (r *Registry) Close() error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	var errs []error
	for _, server := range r.servers {
		errs = append(errs, server.Close())
	}
	return errors.Join(errs...)
}

// WriteHosts makes a containerd whose certs.d folder is dir pull docker.io's images from the registry at
// address (host and port, plain HTTP), and from nowhere else.
func WriteHosts(dir, address string) error {
	server := (&url.URL{Scheme: "http", Host: address}).String()
	hosts := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", server, server)
	folder := filepath.Join(dir, "docker.io")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "hosts.toml"), []byte(hosts), 0o644)
}

// direct is a transport that calls a handler in process.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(request *http.Request) (*http.Response, error) {
	served := request.Clone(request.Context())
	if served.Body == nil {
		served.Body = http.NoBody // as a server would hand it over
	}
	recorder := httptest.NewRecorder()
	d.handler.ServeHTTP(recorder, served)
	response := recorder.Result()
	response.Request = request
	return response, nil
}

func sorted[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
