package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"drayage.dev/controlplane"
	"drayage.dev/controlplane/pki"
	"drayage.dev/internal/garbage"
	"drayage.dev/test/cluster"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

const (
	// startPatience bounds each process's start.
	startPatience = 4 * time.Minute
	// readyFile is written to a side's directory once its API server serves.
	readyFile = "ready"
)

// side is a control plane and a scheduler for it.
type side struct {
	name string
	dir  string
	// api and scheduler are processes; api is etcd and API server.
	api       []*cluster.Process
	scheduler *cluster.Process
	admin     *rest.Config
	// metricsURL serves the scheduler's metrics.
	metricsURL string
	start      func(*side, context.Context) error
	schedule   func(*side) error
}

func binary(name string) string { return filepath.Join("bin", name) }

// newSide makes a side whose state lives in dir.
func newSide(name, dir string) *side {
	s := &side{name: name, dir: dir, start: (*side).startOurs, schedule: (*side).scheduleOurs}
	if name == peer {
		s.start, s.schedule = (*side).startPeer, (*side).schedulePeer
	}
	return s
}

// The two sides.
const ours, peer = "drayage", "upstream"

func (s *side) run(name string, argv ...string) (*cluster.Process, error) {
	p := cluster.NewProcess(name, filepath.Join(s.dir, name+".log"), argv...)
	return p, p.Start()
}

// child starts this program again in another role.
func (s *side) child(role string) (*cluster.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return s.run(role, self, "-role", role, "-dir", s.dir)
}

// startOurs starts the embedded control plane.
func (s *side) startOurs(ctx context.Context) error {
	p, err := s.child(roleAPI)
	if err != nil {
		return err
	}
	s.api = append(s.api, p)
	if err := s.await(ctx, readyFile); err != nil {
		return err
	}
	s.admin, err = clientcmd.BuildConfigFromFlags("", filepath.Join(s.dir, "state/server/kubeconfig/admin.conf"))
	return err
}

func (s *side) scheduleOurs() (err error) {
	address := freeAddress()
	s.metricsURL = "http://" + address + "/metrics"
	s.scheduler, err = s.run("scheduler", binary("dray-scheduler"), "--listen-address="+address,
		"--kubeconfig="+filepath.Join(s.dir, "state/server/kubeconfig/scheduler.conf"),
		// No agent is here, whose first report would spare the scheduler a second write of each pod.
		"--agent-patience="+workloadPatience.String())
	return err
}

// startPeer starts etcd and kube-apiserver.
func (s *side) startPeer(ctx context.Context) error {
	p, err := s.child(roleEtcd)
	if err != nil {
		return err
	}
	s.api = append(s.api, p)
	if err := s.await(ctx, readyFile); err != nil {
		return err
	}
	authority, err := pki.New("bench", 24*time.Hour, time.Now())
	if err != nil {
		return err
	}
	cert, key, err := authority.IssueServing("kube-apiserver", []string{"kube-apiserver"}, time.Now())
	if err != nil {
		return err
	}
	tokens, err := authority.KeyPEM()
	if err != nil {
		return err
	}
	files := map[string][]byte{"ca.crt": authority.CertPEM(), "serving.pem": append(cert, key...), "tokens.key": tokens}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	host, port, _ := net.SplitHostPort(freeAddress())
	in := func(name string) string { return filepath.Join(s.dir, name) }
	p, err = s.run("kube-apiserver", binary("kube-apiserver"),
		"--etcd-servers="+etcdURL(s.dir), "--bind-address="+host, "--advertise-address="+host, "--secure-port="+port,
		"--tls-cert-file="+in("serving.pem"), "--tls-private-key-file="+in("serving.pem"), "--client-ca-file="+in("ca.crt"),
		"--service-account-issuer=https://bench", "--service-account-key-file="+in("tokens.key"), "--service-account-signing-key-file="+in("tokens.key"),
		// As in upstream's test, which has no controller for service accounts either.
		"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
		"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC")
	if err != nil {
		return err
	}
	s.api = append(s.api, p)
	if cert, key, err = authority.IssueClient(pki.Identity{User: "admin", Groups: []string{"system:masters"}}); err != nil {
		return err
	}
	file := pki.Kubeconfig("https://"+net.JoinHostPort(host, port), authority.CertPEM(), &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key})
	for _, c := range file.Clusters {
		c.TLSServerName = "kube-apiserver"
	}
	if err := clientcmd.WriteToFile(*file, in("admin.conf")); err != nil {
		return err
	}
	s.admin, err = clientcmd.BuildConfigFromFlags("", in("admin.conf"))
	return err
}

// schedulePeer starts kube-scheduler with the client rates of upstream's test.
func (s *side) schedulePeer() (err error) {
	config := filepath.Join(s.dir, "scheduler.yaml")
	if err := os.WriteFile(config, []byte(fmt.Sprintf(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: %s, qps: 5000, burst: 5000}
`, filepath.Join(s.dir, "admin.conf"))), 0o600); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(freeAddress())
	s.metricsURL = "https://" + net.JoinHostPort(host, port) + "/metrics"
	s.scheduler, err = s.run("scheduler", binary("kube-scheduler"), "--config="+config, "--secure-port="+port, "--bind-address="+host,
		"--authorization-always-allow-paths=/metrics,/readyz", "--cert-dir="+s.dir)
	return err
}

// await waits until a file is in the side's directory, or a process has ended.
func (s *side) await(ctx context.Context, name string) error {
	for until := time.Now().Add(startPatience); time.Now().Before(until); {
		if _, err := os.Stat(filepath.Join(s.dir, name)); err == nil {
			return nil
		}
		for _, p := range s.api {
			if !p.Running() {
				return fmt.Errorf("starting %s: it ended; see %s", p.Name, p.Log)
			}
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("starting the API server of %s: not ready within %s", s.name, startPatience)
}

// stop ends what runs. The state stays, so that a later start finds it.
func (s *side) stop() {
	if s.scheduler != nil {
		_ = s.scheduler.Kill()
		s.scheduler = nil
	}
	for i := len(s.api) - 1; i >= 0; i-- {
		_ = s.api[i].Stop()
	}
	s.api = nil
	_ = os.Remove(filepath.Join(s.dir, readyFile))
}

// metrics reads the scheduler's metrics.
func (s *side) metrics(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.metricsURL, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("reading the scheduler's metrics: %s", response.Status)
	}
	return string(body), err
}

// Roles of this program as a child.
const roleAPI, roleEtcd = "api", "etcd"

// serve plays a role until it is told to end.
func serve(role, dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch role {
	case roleAPI:
		garbage.Pace(ctx, garbage.Server)
		e, err := env.Start(ctx, env.WithDataDir(filepath.Join(dir, "state")),
			env.WithAdmission(controlplane.AdmissionPlugin{Name: webhooks.PluginName, New: webhooks.NewPlugin}))
		if err != nil {
			return err
		}
		defer func() { _ = e.Stop() }()
	case roleEtcd:
		endpoint, err := url.Parse(etcdURL(dir))
		if err != nil {
			return err
		}
		_ = os.Remove(endpoint.Path)
		config := embed.NewConfig()
		config.Dir, config.LogLevel, config.UnsafeNoFsync = filepath.Join(dir, "state"), "error", true
		config.TickMs, config.ElectionMs = 10, 100
		config.QuotaBackendBytes = 8 << 30
		config.ListenClientUrls, config.ListenPeerUrls = []url.URL{*endpoint}, nil
		config.InitialCluster = config.InitialClusterFromName(config.Name)
		etcd, err := embed.StartEtcd(config)
		if err != nil {
			return err
		}
		defer etcd.Close()
		<-etcd.Server.ReadyNotify()
	default:
		return fmt.Errorf("playing the role %q: there is none", role)
	}
	if err := os.WriteFile(filepath.Join(dir, readyFile), nil, 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func etcdURL(dir string) string {
	return (&url.URL{Scheme: "unix", Path: filepath.Join(dir, "etcd.sock")}).String()
}

func freeAddress() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// cpu is the CPU time that processes have used so far.
func cpu(processes ...*cluster.Process) (total time.Duration) {
	for _, p := range processes {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
		if err != nil {
			continue
		}
		// Behind the command's name in brackets; utime and stime are fields 14 and 15, in hundredths of a second.
		_, rest, _ := strings.Cut(string(data), ") ")
		fields := strings.Fields(rest)
		for _, field := range fields[11:13] {
			var ticks int64
			_, _ = fmt.Sscan(field, &ticks)
			total += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return total
}
