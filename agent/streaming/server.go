package streaming

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultClientName is the common name of the API server's certificate towards nodes.
const defaultClientName = "drayage:apiserver"

const (
	// headerTimeout bounds how long a connection may take to say what it wants.
	headerTimeout = 10 * time.Second
	// idleTimeout closes connections that the API server keeps for a next request.
	idleTimeout = 90 * time.Second
	// drainTimeout is how long running requests may end by themselves when the server stops. A shell or
	// a followed log never does.
	drainTimeout = time.Second
	// maxHeaderBytes bounds a request's header; a command travels in the query.
	maxHeaderBytes = 1 << 20
)

// Pods finds the pods of this node.
type Pods interface {
	// Pod returns a pod with its status as the agent knows it now, which may be ahead of the API's. The
	// result is read only.
	Pod(namespace, name string) (*corev1.Pod, bool)
}

// Config is what New needs to know.
type Config struct {
	// Listener accepts the connections. The server closes it.
	Listener net.Listener
	// GetCertificate returns the serving certificate; it is asked at each handshake, so that a renewed
	// one is used at once.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs is the cluster's authority.
	ClientCAs *x509.CertPool
	// ClientName is the common name of the one client. Default: drayage:apiserver.
	ClientName string
	// Pods finds pods.
	Pods Pods
	// Runtime is the container runtime of the pods, which carry kubelet's labels in it.
	Runtime runtimeapi.RuntimeServiceClient
	// Check answers POST /check, which looks for what is broken in the node's network; nil means nobody does.
	Check http.Handler
}

// Server serves the streams of one node's pods.
type Server struct {
	config Config
	client string
}

// New returns a server that Run starts.
func New(config Config) *Server {
	if config.ClientName == "" {
		config.ClientName = defaultClientName
	}
	return &Server{config: config, client: config.ClientName}
}

// Run serves until ctx ends; then it ends running streams and returns nil.
func (s *Server) Run(ctx context.Context) error {
	logger := logr.FromContextOrDiscard(ctx).WithName("streaming")
	// HTTP/1.1 only: every stream has a connection of its own, so that nobody who reads slowly holds up
	// another, and upgrades need it anyway.
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	server := &http.Server{
		Protocols:         protocols,
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return logr.NewContext(ctx, logger) },
		// Handshakes that fail are somebody's port scan; they are worth a line for who looks for them.
		ErrorLog: log.New(lines{logger}, "", 0),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: s.config.GetCertificate,
			ClientAuth:     tls.RequireAndVerifyClientCert,
			ClientCAs:      s.config.ClientCAs,
		},
	}
	listener := &connections{Listener: s.config.Listener, open: map[net.Conn]struct{}{}}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		_ = server.Shutdown(drain)
		listener.closeAll()
	})
	err := server.ServeTLS(listener, "", "")
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving streams on %s: %w", s.config.Listener.Addr(), err)
	}
	<-stopped
	return nil
}

// lines passes what net/http has to say on to the agent's log.
type lines struct{ logger logr.Logger }

func (l lines) Write(line []byte) (int, error) {
	l.logger.V(1).Info("served a connection badly", "reason", string(line))
	return len(line), nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	if s.config.Check != nil {
		mux.Handle("POST /check", s.config.Check)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, uid := range []string{"", "/{uid}"} {
			pod := "/{namespace}/{pod}" + uid
			mux.HandleFunc(method+" /exec"+pod+"/{container}", s.exec)
			mux.HandleFunc(method+" /attach"+pod+"/{container}", s.attach)
			mux.HandleFunc(method+" /portForward"+pod, s.portForward)
		}
	}
	return s.onlyClient(mux)
}

// onlyClient refuses every certificate of the cluster but one: nodes have certificates of the same
// authority.
func (s *Server) onlyClient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name := r.TLS.PeerCertificates[0].Subject.CommonName; name != s.client {
			http.Error(w, fmt.Sprintf("only %q may use this endpoint, not %q", s.client, name), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// pod finds the pod that a request names, or answers that there is none.
func (s *Server) pod(w http.ResponseWriter, r *http.Request) (*corev1.Pod, bool) {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	pod, ok := s.config.Pods.Pod(namespace, name)
	if !ok || uid != "" && string(pod.UID) != uid {
		http.Error(w, fmt.Sprintf("pod %q does not exist on this node", name), http.StatusNotFound)
		return nil, false
	}
	return pod, true
}
