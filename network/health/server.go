package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// headerTimeout bounds how long a connection may take to ask, idleTimeout how long it may wait for the
	// next question.
	headerTimeout = 5 * time.Second
	idleTimeout   = time.Minute
	// maxHeaderBytes bounds a question.
	maxHeaderBytes = 8 << 10
	// retry is when a port that was taken is tried again.
	retry = 5 * time.Second
)

// Answer is what is told of one service.
type Answer struct {
	// Port is where it is told.
	Port uint16
	// Ready is how many endpoints the node has; with none, load balancers leave it out.
	Ready int
	// Stuck says that the node's rules do not follow the API any more: load balancers leave it out, too.
	Stuck bool
}

// Config says where to listen.
type Config struct {
	// Listen opens a port on all addresses of the node; nil means the process's own.
	Listen func(port uint16) (net.Listener, error)
	// Log is told of ports that cannot be opened; the zero value discards.
	Log logr.Logger
}

// Server answers at the ports of services. Its methods may be called from any goroutine.
type Server struct {
	config Config
	kick   chan struct{}

	mu      sync.Mutex
	answers map[types.NamespacedName]Answer
}

// New returns a Server that opens nothing until Run.
func New(config Config) *Server {
	if config.Listen == nil {
		config.Listen = func(port uint16) (net.Listener, error) {
			return net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
		}
	}
	return &Server{config: config, kick: make(chan struct{}, 1)}
}

// Set replaces what is answered. It does not wait for ports to open or close.
func (s *Server) Set(answers map[types.NamespacedName]Answer) {
	s.mu.Lock()
	s.answers = answers
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Server) answer(service types.NamespacedName) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answers[service]
}

// port is one open port.
type port struct {
	number uint16
	server *http.Server
	ended  chan struct{}
}

func (p port) close() {
	_ = p.server.Close()
	<-p.ended
}

// Run keeps a port open for each service until ctx ends; then it closes all and returns nil.
func (s *Server) Run(ctx context.Context) error {
	open := map[types.NamespacedName]port{}
	defer func() {
		for _, p := range open {
			p.close()
		}
	}()
	for {
		var again <-chan time.Time
		if !s.reconcile(ctx, open) {
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.kick:
		case <-again:
		}
	}
}

// reconcile closes and opens ports; false means that one could not be opened.
func (s *Server) reconcile(ctx context.Context, open map[types.NamespacedName]port) bool {
	s.mu.Lock()
	wanted := s.answers
	s.mu.Unlock()
	for service, p := range open {
		if wanted[service].Port != p.number {
			p.close()
			delete(open, service)
		}
	}
	complete := true
	for service, answer := range wanted {
		if _, ok := open[service]; ok {
			continue
		}
		p, err := s.open(ctx, service, answer.Port)
		if err != nil {
			complete = false
			s.config.Log.Error(err, "Load balancers do not hear whether this node has endpoints, will try again", "service", service)
			continue
		}
		open[service] = p
	}
	return complete
}

func (s *Server) open(ctx context.Context, service types.NamespacedName, number uint16) (port, error) {
	listener, err := s.config.Listen(number)
	if err != nil {
		return port{}, fmt.Errorf("opening health check port %d: %w", number, err)
	}
	p := port{number: number, ended: make(chan struct{}), server: &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.serve(w, service) }),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}}
	go func() {
		defer close(p.ended)
		if err := p.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.config.Log.Error(err, "Health check port closed", "service", service, "port", number)
		}
	}()
	return p, nil
}

// serve answers as upstream's kube-proxy does, for whoever reads it: 200 with an endpoint or more and
// rules that follow, else 503.
func (s *Server) serve(w http.ResponseWriter, service types.NamespacedName) {
	answer := s.answer(service)
	ready := answer.Ready
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(ready))
	if ready == 0 || answer.Stuck {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintf(w, "{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %t\n}",
		service.Namespace, service.Name, ready, !answer.Stuck)
}
