package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"drayage.dev/test/cluster"
)

// kind is which proxy.
type kind string

const (
	drayage   kind = "drayage"
	kubeProxy kind = "kube-proxy"
)

const (
	// syncTimeout bounds a full sync; kube-proxy's takes some 15 s.
	syncTimeout = 10 * time.Minute
	// restTime without work is rest: a proxy that waits to share a change waits for a second.
	restTime = 2 * time.Second
	// tick is the unit of CPU time in /proc.
	tick = 10 * time.Millisecond
)

// subject is a running proxy in its node.
type subject struct {
	*lab
	kind    kind
	dir     string
	process *cluster.Process
	// synced is what the first full sync took.
	synced struct{ wall, cpu time.Duration }
}

// newSubject makes the node, with clients and endpoints of its own.
func newSubject(h *host, of kind, dir string) (*subject, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	address := nodeAddress
	if of == kubeProxy {
		address = netip.PrefixFrom(address.Addr().Next(), address.Bits())
	}
	s := &subject{kind: of, dir: dir}
	var err error
	if s.lab, err = newLab(h.fabric, address, fabricAddress.Addr()); err != nil {
		return s, err
	}
	argv := []string{
		cluster.Binary("kube-proxy"), "--kubeconfig=" + h.kubeconfig, "--hostname-override=" + nodeName, "--proxy-mode=nftables",
		"--cluster-cidr=" + podRange.String(), "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
	}
	if of == drayage {
		program, err := os.Executable()
		if err != nil {
			return s, err
		}
		argv = []string{program, proxyCommand, h.kubeconfig, s.syncsFile()}
	}
	s.process = cluster.NewProcess(string(of), filepath.Join(dir, "log"), append([]string{"nsenter", "--net=" + s.node.Path}, argv...)...)
	return s, nil
}

// syncsFile is where our proxy writes what each full sync took.
func (s *subject) syncsFile() string { return filepath.Join(s.dir, "syncs") }

// start starts the proxy and returns when the clients reach the services.
func (s *subject) start(ctx context.Context, l *load) error {
	begun := time.Now()
	if err := s.process.Start(); err != nil {
		return err
	}
	for _, n := range []int{l.size - 1, changeService, l.size / 2} {
		for {
			_, err := s.ask(l.address(n), 200*time.Millisecond)
			if err == nil {
				break
			}
			if ctx.Err() != nil || time.Since(begun) > syncTimeout || !s.process.Running() {
				return fmt.Errorf("waiting for %s to serve %s: %w: %s", s.kind, l.address(n), err, s.process.Tail(5))
			}
			time.Sleep(time.Millisecond)
		}
	}
	s.synced.wall = time.Since(begun)
	var err error
	s.synced.cpu, err = s.settle(ctx)
	return err
}

// settle waits until the proxy rests and returns the processor time that it has used by then: commands that
// it runs are counted when they have ended.
func (s *subject) settle(ctx context.Context) (used time.Duration, err error) {
	for begun := time.Now(); time.Since(begun) < syncTimeout && ctx.Err() == nil; {
		before := used
		if used, err = s.cpu(); err != nil || (before > 0 && used-before <= tick) {
			return used, err
		}
		time.Sleep(restTime)
	}
	return used, fmt.Errorf("%s does not come to rest", s.kind)
}

// cpu is the processor time of the proxy and of the commands that it has run.
func (s *subject) cpu() (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.process.PID()))
	if err != nil {
		return 0, err
	}
	// The command's name, in brackets, may hold anything; utime is the twelfth field after it.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	var total time.Duration
	for _, field := range fields[11:15] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		total += time.Duration(ticks) * tick
	}
	return total, nil
}

// peak is the most memory that the proxy itself ever had resident, in MiB.
func (s *subject) peak() (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
			return float64(kilobytes) / 1024, err
		}
	}
	return 0, errors.New("the kernel does not tell the peak of resident memory")
}

func (s *subject) close() error {
	var errs []error
	if s.process != nil {
		errs = append(errs, s.process.Kill())
	}
	if s.lab != nil {
		errs = append(errs, s.lab.close())
	}
	return errors.Join(errs...)
}
