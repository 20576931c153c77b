package single

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/cmd/dray/server"
	"drayage.dev/controlplane"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/cluster"
	"drayage.dev/test/images"
)

const (
	insideVariable = "DRAYAGE_SPEC_INSIDE"
	// registryAddress is where the registry listens.
	registryAddress = "127.0.0.1:5000"
	// startPatience bounds the start of a control plane, stopPatience its end.
	startPatience, stopPatience = 4 * time.Minute, 2 * time.Minute
)

// Inside tells whether this process is inside the machine. If not, it starts the test binary again in the namespaces
// that unshare makes with these arguments, and lets the test end as that does.
func Inside(t *testing.T, unshare ...string) bool {
	if os.Getenv(insideVariable) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Fatal("these specs run containers: they need root")
	}
	cmd := exec.Command("unshare", append(append(unshare, os.Args[0]), os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return false
}

// Run runs a command; its error says what it wrote.
func Run(argv ...string) error {
	output, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, output)
	}
	return nil
}

// Uplink gives the machine an address of a network in which there is nobody else.
func Uplink(address string) error {
	for _, arguments := range []string{
		"link set lo up", "link add uplink type veth peer name nowhere", "link set nowhere up",
		"address add " + address + "/24 dev uplink", "link set uplink up",
	} {
		if err := Run(append([]string{"ip"}, strings.Fields(arguments)...)...); err != nil {
			return err
		}
	}
	return nil
}

// Server is a control plane with its controllers and scheduler.
type Server struct {
	Info   controlplane.Info
	Client client.WithWatch

	stop context.CancelFunc
	done chan error
}

// Serve starts a control plane that keeps its state in dir and listens at a free port of the address. The
// configuration's other fields are taken as they are.
func Serve(dir, address string, config controlplane.Config) (*Server, error) {
	if err := cluster.Roomy(dir); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address+":0")
	if err != nil {
		return nil, err
	}
	ready := make(chan controlplane.Info, 1)
	config.DataDir, config.Listener, config.Ephemeral = filepath.Join(dir, "server"), listener, true
	config.Ready = func(info controlplane.Info) { ready <- info }
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{stop: stop, done: make(chan error, 1)}
	go func() { s.done <- server.Run(ctx, server.Config{ControlPlane: config}) }()
	select {
	case s.Info = <-ready:
	case err := <-s.done:
		stop()
		return nil, fmt.Errorf("the control plane ended: %w", err)
	case <-time.After(startPatience):
		stop()
		return nil, errors.New("the control plane is not ready")
	}
	admin := rest.CopyConfig(s.Info.Admin)
	admin.QPS = -1
	if s.Client, err = client.NewWithWatch(admin, client.Options{Scheme: scheme.New()}); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop ends the control plane; it returns how that ended.
func (s *Server) Stop() error {
	s.stop()
	select {
	case err := <-s.done:
		return err
	case <-time.After(stopPatience):
		return errors.New("the control plane does not end")
	}
}

// Registry serves the test images until the process ends, to a containerd whose folder of registries is certs.
func Registry(ctx context.Context, certs string) error {
	built, err := images.Build(ctx)
	if err != nil {
		return err
	}
	registry, err := images.NewRegistry(ctx, built)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", registryAddress)
	if err != nil {
		return err
	}
	go func() { _ = registry.Serve(listener) }()
	return images.WriteHosts(certs, registryAddress)
}

// Tail returns the last bytes of a file, such as a log.
func Tail(file string, bytes int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-bytes):])
}
