package controlplane

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// etcdQuotaBytes is what etcd may grow to before it refuses writes; it is upstream's suggested maximum.
const etcdQuotaBytes = 8 << 30

// maxSocketPath is what the kernel takes for the path of a unix socket, without the closing NUL.
const maxSocketPath = 107

// startEtcd starts a single etcd member whose only door is a unix socket in a directory that root alone may
// enter: etcd has no authentication here, and a loopback port would hand the cluster to every local user
// and every pod on the host's network.
func startEtcd(ctx context.Context, dir, socket string, ephemeral bool) (*embed.Etcd, []string, error) {
	if len(socket) > maxSocketPath {
		return nil, nil, fmt.Errorf("starting etcd: the socket's path %s is longer than %d bytes: choose a shorter data directory", socket, maxSocketPath)
	}
	for _, d := range []string{dir, filepath.Dir(socket)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, nil, fmt.Errorf("starting etcd: %w", err)
		}
	}
	// A killed process leaves its socket; the lock on the data directory says that nobody listens on it.
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, nil, fmt.Errorf("starting etcd: %w", err)
	}
	endpoint := url.URL{Scheme: "unix", Path: socket}
	config := embed.NewConfig()
	config.Name = "drayage"
	config.Dir = dir
	config.ListenClientUrls = []url.URL{endpoint}
	// A single member has no peers, and nobody asks it where its clients are: the advertised URLs stay
	// at their defaults and are only names.
	config.ListenPeerUrls = nil
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.QuotaBackendBytes = etcdQuotaBytes
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(etcdLogger())
	if ephemeral {
		config.UnsafeNoFsync = true
		config.TickMs, config.ElectionMs = 10, 100
	}
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, nil, fmt.Errorf("starting etcd: %w", err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, []string{endpoint.String()}, nil
	case err := <-etcd.Err():
		etcd.Close()
		return nil, nil, fmt.Errorf("starting etcd: %w", err)
	case <-time.After(bootstrapTimeout):
		etcd.Close()
		return nil, nil, fmt.Errorf("starting etcd: not ready within %s", bootstrapTimeout)
	case <-ctx.Done():
		etcd.Close()
		return nil, nil, ctx.Err()
	}
}

// etcdDialTimeout bounds the first contact with an etcd outside.
const etcdDialTimeout = 3 * time.Second

// reachable tells early, and in one line, that none of the members of an etcd outside answers.
func reachable(ctx context.Context, endpoints []string) error {
	var errs []string
	for _, endpoint := range endpoints {
		address, err := url.Parse(endpoint)
		if err != nil || address.Scheme != "unix" && address.Port() == "" {
			return fmt.Errorf("parsing --etcd-servers: %q is not a URL such as https://10.0.0.7:2379", endpoint)
		}
		network, target := "tcp", address.Host
		if address.Scheme == "unix" {
			network, target = "unix", address.Host+address.Path
		}
		connection, err := (&net.Dialer{Timeout: etcdDialTimeout}).DialContext(ctx, network, target)
		if err == nil {
			return connection.Close()
		}
		errs = append(errs, err.Error())
	}
	return fmt.Errorf("reaching etcd: %s: check that it runs and that --etcd-servers is right", strings.Join(errs, "; "))
}

// etcdLogger writes what an operator has to act on to standard error.
func etcdLogger() *zap.Logger {
	encoder := zapcore.NewConsoleEncoder(zap.NewProductionEncoderConfig())
	return zap.New(actionable{zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), zapcore.ErrorLevel)})
}

// actionable drops what etcd calls errors in every life of a server: before the first term of a new
// directory, and of its listeners at a clean stop.
type actionable struct{ zapcore.Core }

func (a actionable) With(fields []zapcore.Field) zapcore.Core { return actionable{a.Core.With(fields)} }

func (a actionable) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	switch entry.Message {
	case "failed to update storage version", "setting up serving from embedded etcd failed.":
		return checked
	}
	return a.Core.Check(entry, checked)
}
