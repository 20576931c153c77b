package diagnostics

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
)

const (
	// relisten is how long a taken port waits for the next try.
	relisten = 5 * time.Second
	// headerTimeout and idleTimeout bound what a client may keep a connection for without asking.
	headerTimeout = 5 * time.Second
	idleTimeout   = 90 * time.Second
	// stopTimeout is how long answers may take when the process stops.
	stopTimeout    = time.Second
	maxHeaderBytes = 1 << 16
)

// Config says where a process shows what. An empty address and "0" mean nowhere.
type Config struct {
	// HealthAddress serves /healthz, /livez and /readyz, MetricsAddress serves /metrics, both over plain HTTP. They may
	// be the same.
	HealthAddress, MetricsAddress string
	// SecureAddress serves all of that and /debug/pprof over TLS. But for health, it answers only who may get the URL:
	// members of system:masters, and those whom the API server says so of.
	SecureAddress string
	// ClientCAFile is the authority of the client certificates that are known at SecureAddress beside the API server's
	// tokens. Empty: none are.
	ClientCAFile string
	// GetCertificate returns the serving certificate of SecureAddress; nil makes one that nobody has signed.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// RESTConfig reaches the API server that reviews tokens and access. Needed with SecureAddress only.
	RESTConfig *rest.Config
	// Ready says why the process is not ready; nil is always ready.
	Ready func(context.Context) error
	// Log is told of listeners and errors; the zero value discards.
	Log logr.Logger
}

// AddSecureFlags binds the flags of what is served over TLS.
func (c *Config) AddSecureFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.SecureAddress, "secure-listen-address", c.SecureAddress,
		"address to serve metrics and profiles (/debug/pprof) at over TLS, to who may get these URLs; none when empty")
}

func (c Config) ready(ctx context.Context) error {
	if c.Ready == nil {
		return nil
	}
	return c.Ready(ctx)
}

// Run serves until ctx ends. A port that is taken is tried again: that nobody can look is no reason to stop working.
// Run returns an error only for a configuration that cannot work.
func Run(ctx context.Context, config Config) error {
	plain := map[string]*http.ServeMux{}
	mux := func(address string) *http.ServeMux {
		if plain[address] == nil {
			plain[address] = http.NewServeMux()
		}
		return plain[address]
	}
	if serves(config.HealthAddress) {
		config.health(mux(config.HealthAddress))
	}
	if serves(config.MetricsAddress) {
		mux(config.MetricsAddress).Handle("GET /metrics", MetricsHandler())
	}
	var secure http.Handler
	var tlsConfig *tls.Config
	if serves(config.SecureAddress) {
		var err error
		if secure, err = config.secure(ctx); err != nil {
			return err
		}
		if tlsConfig, err = config.tls(); err != nil {
			return err
		}
	}
	var servers sync.WaitGroup
	for address, handler := range plain {
		servers.Go(func() { config.serve(ctx, address, handler, nil) })
	}
	if secure != nil {
		servers.Go(func() { config.serve(ctx, config.SecureAddress, secure, tlsConfig) })
	}
	servers.Wait()
	return nil
}

func serves(address string) bool { return address != "" && address != "0" }

// health adds what says how the process is. It is alive when it answers.
func (c Config) health(mux *http.ServeMux) {
	alive := func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") }
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := c.ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
}

// secure returns what is served over TLS.
func (c Config) secure(ctx context.Context) (http.Handler, error) {
	guarded := http.NewServeMux()
	guarded.Handle("GET /metrics", MetricsHandler())
	guarded.HandleFunc("/debug/pprof/", pprof.Index)
	guarded.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	guarded.HandleFunc("/debug/pprof/profile", pprof.Profile)
	guarded.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	guarded.HandleFunc("/debug/pprof/trace", pprof.Trace)
	handler, err := c.guard(ctx, guarded)
	if err != nil {
		return nil, fmt.Errorf("preparing who may read %s: %w", c.SecureAddress, err)
	}
	mux := http.NewServeMux()
	c.health(mux)
	mux.Handle("/", handler)
	return mux, nil
}

func (c Config) tls() (*tls.Config, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		// Verified by who authenticates.
		ClientAuth: tls.RequestClientCert, GetCertificate: c.GetCertificate,
	}
	if config.GetCertificate != nil {
		return config, nil
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("localhost", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		return nil, fmt.Errorf("making a serving certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	config.Certificates = []tls.Certificate{pair}
	return config, err
}

// serve listens at an address, sooner or later, and answers there until ctx ends.
func (c Config) serve(ctx context.Context, address string, handler http.Handler, tlsConfig *tls.Config) {
	var listener net.Listener
	for told := false; listener == nil; told = true {
		var err error
		if listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", address); err == nil {
			break
		}
		if ctx.Err() == nil && !told {
			c.Log.Error(err, "Could not listen for health and metrics, trying again", "address", address)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(relisten):
		}
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		TLSConfig: tlsConfig, BaseContext: func(net.Listener) context.Context { return ctx },
		// Handshakes that fail are somebody's port scan; they are worth a line for who looks for them.
		ErrorLog: log.New(lines{c.Log}, "", 0),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(drain) != nil {
			_ = server.Close()
		}
	})
	var err error
	if tlsConfig != nil {
		err = server.ServeTLS(listener, "", "")
	} else {
		err = server.Serve(listener)
	}
	if stop() {
		c.Log.Error(err, "No longer serving health and metrics", "address", address)
		return
	}
	<-stopped
}

// lines passes what net/http has to say on to the log.
type lines struct{ log logr.Logger }

func (l lines) Write(line []byte) (int, error) {
	l.log.V(1).Info("Served a connection badly", "reason", string(line))
	return len(line), nil
}
