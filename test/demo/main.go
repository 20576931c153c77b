package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"drayage.dev/test/images"
)

// registryAddress is where the demo images are served while the demo runs. It is fixed, so that a container
// runtime that outlived a killed demo still finds it.
const registryAddress = "127.0.0.1:5055"

type demo struct {
	dray, dataDir, samples string
}

func main() {
	d := demo{}
	flag.StringVar(&d.dray, "dray", "bin/dray", "the dray binary")
	flag.StringVar(&d.dataDir, "data-dir", ".run", "directory for everything that Drayage keeps")
	flag.StringVar(&d.samples, "samples", "config/samples", "folder of the sample application")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := d.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "drayage demo:", err)
		os.Exit(1)
	}
}

func (d *demo) run(ctx context.Context) (err error) {
	if os.Getuid() != 0 {
		return errors.New("it needs root for containers and networks: run it with sudo")
	}
	for _, path := range []*string{&d.dray, &d.dataDir, &d.samples} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	progress("building the demo images")
	closeRegistry, err := d.serveImages(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeRegistry()) }()

	progress("starting Drayage: state in %s, log in %s", d.dataDir, d.log())
	ended, terminate, err := d.up()
	if err != nil {
		return err
	}
	defer func() {
		progress("stopping: pods end, then everything that was made is removed")
		err = errors.Join(err, terminate())
		if err == nil {
			progress("done; the data directory %s stays", d.dataDir)
		}
	}()

	failed := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case failure := <-ended:
			failed <- errors.Join(fmt.Errorf("dray up ended early: see %s", d.log()), failure)
			cancel(errors.New("dray up ended"))
		case <-ctx.Done():
			failed <- nil
		}
	}()

	err = d.serveSample(ctx)
	if err == nil {
		err = d.show(ctx)
	}
	if err == nil {
		<-ctx.Done()
	}
	cancel(nil)
	if early := <-failed; early != nil {
		return early
	}
	if errors.Is(err, context.Canceled) {
		return nil // Ctrl-C while waiting is no failure
	}
	return err
}

func (d *demo) log() string { return filepath.Join(d.dataDir, "dray.log") }

func (d *demo) serveImages(ctx context.Context) (func() error, error) {
	built, err := images.Build(ctx)
	if err != nil {
		return nil, err
	}
	registry, err := images.NewRegistry(ctx, built)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", registryAddress)
	if err != nil {
		return nil, fmt.Errorf("serving the demo images: %w (does another demo run?)", err)
	}
	served := make(chan error, 1)
	go func() { served <- registry.Serve(listener) }()
	return func() error { return errors.Join(registry.Close(), <-served) },
		images.WriteHosts(filepath.Join(d.dataDir, "agent/containerd/certs.d"), registryAddress)
}

// up starts `dray up`; terminate ends it and waits for its clean end.
func (d *demo) up() (ended <-chan error, terminate func() error, err error) {
	log, err := os.Create(d.log())
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(d.dray, "up", "--take-down", "--data-dir", d.dataDir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which ends it in order
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return nil, nil, fmt.Errorf("starting dray up: %w", err)
	}
	done := make(chan struct{})
	result := make(chan error, 1)
	var failure error
	go func() {
		failure = cmd.Wait()
		result <- failure
		close(done)
	}()
	return result, func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		select {
		case <-done:
			return failure
		case <-time.After(2 * time.Minute):
			return fmt.Errorf("dray up has not ended after two minutes: see %s, then run make clean-node", d.log())
		}
	}, nil
}

// serveSample waits for the API, applies the sample and waits until its service answers.
func (d *demo) serveSample(ctx context.Context) error {
	if err := d.waitFor(ctx, "the API server", func() (string, bool) {
		out, err := d.kubectl(ctx, "get", "--raw", "/readyz")
		return out, err == nil
	}); err != nil {
		return err
	}
	if err := d.waitFor(ctx, "the node", func() (string, bool) {
		out, err := d.kubectl(ctx, "get", "nodes", "-o", "jsonpath={.items[*].status.summary.status}")
		return out, err == nil && out == "Ready"
	}); err != nil {
		return err
	}
	progress("applying %s", d.samples)
	if out, err := d.kubectl(ctx, "apply", "-k", d.samples); err != nil {
		return fmt.Errorf("applying the sample application: %w: %s", err, out)
	}
	return d.waitFor(ctx, "the sample application", func() (string, bool) {
		out, err := d.kubectl(ctx, "get", "deployment", "myapp", "-o", "jsonpath={.status.summary.ready} replicas ready")
		return out, err == nil && strings.HasPrefix(out, "3/3 ")
	})
}

// waitFor shows every new state until it is the awaited one.
func (d *demo) waitFor(ctx context.Context, what string, look func() (state string, done bool)) error {
	progress("waiting for %s", what)
	start := time.Now()
	last := ""
	for {
		state, done := look()
		if state != "" && state != last {
			fmt.Printf("    %4.0fs  %s\n", time.Since(start).Seconds(), state)
			last = state
		}
		if done {
			return nil
		}
		if time.Since(start) > 3*time.Minute {
			return fmt.Errorf("%s: not there after three minutes: see %s", what, d.log())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// show prints what runs and what to try.
func (d *demo) show(ctx context.Context) error {
	address, err := d.kubectl(ctx, "get", "service", "myapp", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	out, err := d.kubectl(ctx, "get", "nodes,deployments,pods,services")
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n", out)
	fmt.Printf(`The sample application serves. In another terminal:

  export KUBECONFIG=%[1]s
  curl http://%[2]s/
  %[3]s kubectl get pods -o wide
  %[3]s logs deployment/myapp
  %[3]s exec -it deployment/myapp -- sh
  %[3]s kubectl scale deployment myapp --replicas=5
  %[3]s rollout restart deployment/myapp
  %[3]s rollout status deployment/myapp
  %[3]s rollout undo deployment/myapp

Ctrl-C ends it.
`, filepath.Join(d.dataDir, "server/kubeconfig/admin.conf"), address, d.dray)
	return nil
}

func (d *demo) kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.dray, append([]string{"kubectl", "--kubeconfig", filepath.Join(d.dataDir, "server/kubeconfig/admin.conf")}, args...)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(out), err
}

func progress(format string, args ...any) { fmt.Printf("==> "+format+"\n", args...) }
