package podobjects

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/internal/scheme"
)

// writeTimeout is how long one frame may take to leave. A node that does not read for so long loses its
// stream, and comes back when it can.
const writeTimeout = 30 * time.Second

// Broker streams pods' objects to nodes and mints tokens for them. It watches what its streams need, and
// for a short while what they needed.
type Broker struct {
	client  kubernetes.Interface
	pods    rest.Interface
	watches *watches
	// bind says that tokens are bound to their pods.
	bind bool

	mu sync.Mutex
	// streams ends the stream that each caller has; a caller has one at most.
	streams map[caller]*context.CancelFunc
}

// caller is who reads which node's stream.
type caller struct{ user, node string }

// New returns a broker that reads and mints with config, until ctx ends, whose identity must be allowed to list and
// watch Pods, Secrets, ConfigMaps and ServiceAccounts and to create tokens in every namespace. With bind, tokens are bound
// to their pods, which the API server must know for v1 Pods.
func New(ctx context.Context, config *rest.Config, bind bool) (*Broker, error) {
	config = rest.CopyConfig(config)
	// One stream may start hundreds of watches at once, and what bounds them is the pods of a node.
	config.QPS, config.RateLimiter = -1, nil
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making the broker's client: %w", err)
	}
	config.APIPath, config.GroupVersion = "/apis", &dcorev1.GroupVersion
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme.New()).WithoutConversion()
	pods, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making the broker's client for pods: %w", err)
	}
	return &Broker{
		client: client, pods: pods, bind: bind, watches: newWatches(ctx, client), streams: map[caller]*context.CancelFunc{},
	}, nil
}

// Stream answers w with the frames of node's pods until ctx or the broker ends, w fails or the same user asks for the
// same stream again: the newer connection is the one that is read.
func (b *Broker) Stream(ctx context.Context, user, node string, w http.ResponseWriter) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A request outlives a server that is asked to stop.
	defer context.AfterFunc(b.watches.ctx, cancel)()
	defer b.enter(caller{user, node}, &cancel)()

	w.Header().Set("Content-Type", subresourcesv1alpha1.PodObjectsContentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	s := newStream(b.watches, framesTo(w, writeTimeout))

	lw := cache.NewListWatchFromClient(b.pods, "pods", "", fields.OneTermEqualSelector(dcorev1.NodeNameField, node))
	reflector := cache.NewReflectorWithOptions(lw, &dcorev1.Pod{}, s.pods, cache.ReflectorOptions{
		Name: "podobjects pods of " + node, MinWatchTimeout: minWatchTimeout,
	})
	done := make(chan struct{})
	go func() { defer close(done); reflector.RunWithContext(ctx) }()
	// How a stream ended matters to nobody: the node comes back, and gets everything again.
	_ = s.run(ctx)
	cancel()
	<-done
}

// framesTo returns how one frame is written to w. A frame that does not leave within timeout fails, and
// the connection with it.
func framesTo(w http.ResponseWriter, timeout time.Duration) func(*subresourcesv1alpha1.PodObjectsFrame) error {
	control, encoder := http.NewResponseController(w), json.NewEncoder(w)
	return func(frame *subresourcesv1alpha1.PodObjectsFrame) error {
		if err := control.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if err := encoder.Encode(frame); err != nil {
			return err
		}
		return control.Flush()
	}
}

// enter makes cancel the end of c's stream and ends the one before. The returned function leaves.
func (b *Broker) enter(c caller, cancel *context.CancelFunc) (leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if earlier := b.streams[c]; earlier != nil {
		(*earlier)()
	}
	b.streams[c] = cancel
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.streams[c] == cancel {
			delete(b.streams, c)
		}
	}
}
