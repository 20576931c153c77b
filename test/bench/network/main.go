package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	services, endpoints  int
	changes, peerChanges int
	connects, pods       int
	rounds               int
	queries              int
	dnsOnly              bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == proxyCommand {
		err = runProxy(ctx, os.Args[2:])
	} else {
		err = run(ctx, parse(os.Args[1:]))
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "bench-network:", err)
		os.Exit(1)
	}
}

func parse(args []string) options {
	var o options
	flags := flag.NewFlagSet("network", flag.ExitOnError)
	flags.IntVar(&o.services, "services", 10_000, "how many services there are in the largest stage")
	flags.IntVar(&o.endpoints, "endpoints", 10, "endpoints of a service")
	flags.IntVar(&o.changes, "changes", 200, "how many changes of an endpoint Drayage's proxy follows")
	flags.IntVar(&o.peerChanges, "peer-changes", 8, "how many of them kube-proxy follows: each takes seconds")
	flags.IntVar(&o.connects, "connects", 5000, "connections to measure at each size")
	flags.IntVar(&o.pods, "pods", 100, "pods to wire")
	flags.IntVar(&o.rounds, "rounds", 3, "rounds of bulk transfer, and of questions to DNS, two seconds each")
	flags.IntVar(&o.queries, "queries", 5000, "questions to DNS of each kind to measure")
	flags.BoolVar(&o.dnsOnly, "dns-only", false, "measure DNS alone")
	_ = flags.Parse(args)
	return o
}

// run goes through the stages, the small ones first.
func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "bench-network-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	results, err := newReport(os.Stdout, os.Getenv("BENCH_JSON"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, results.close()) }()

	if !o.dnsOnly {
		progress("wiring %d pods", o.pods)
		if err := measureWiring(ctx, o, results); err != nil {
			return err
		}
	}
	progress("starting etcd and kube-apiserver")
	h, err := startHost(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	load := newLoad(h, o.endpoints)
	for _, size := range []int{10, 1000, o.services} {
		if size > o.services || o.dnsOnly && size < o.services {
			continue
		}
		progress("making services until there are %d", size)
		if err := load.grow(ctx, size); err != nil {
			return err
		}
		if o.dnsOnly {
			continue
		}
		if err := measureStage(ctx, h, load, o, size == o.services, results); err != nil {
			return fmt.Errorf("with %d services: %w", size, err)
		}
	}
	return compareDNS(ctx, h, load, o, results)
}

// measureStage starts both proxies, one after the other, in nodes of their own, and measures them.
func measureStage(ctx context.Context, h *host, load *load, o options, whole bool, results *report) (err error) {
	var both [2]*subject
	for i, kind := range []kind{drayage, kubeProxy} {
		s, err := newSubject(h, kind, filepath.Join(h.dir, fmt.Sprint(load.size, kind)))
		if s != nil {
			defer func() { err = errors.Join(err, s.close()) }()
		}
		if err != nil {
			return err
		}
		progress("full sync of %d services by %s", load.size, kind)
		if err := s.start(ctx, load); err != nil {
			return err
		}
		both[i] = s
	}
	ours, peer := both[0], both[1]
	if whole {
		results.add("full-sync/wall", "s from start of the process to served", ours.synced.wall.Seconds(), peer.synced.wall.Seconds())
		results.add("full-sync/cpu", "s CPU from start of the process to served", ours.synced.cpu.Seconds(), peer.synced.cpu.Seconds())
		if err := compareSyncs(ours, peer, results); err != nil {
			return err
		}
	}
	progress("connecting to %d services", load.size)
	if err := compareConnects(both, load, o, results); err != nil {
		return err
	}
	if !whole {
		return nil
	}
	progress("bulk transfer")
	if err := compareThroughput(both, load, o, results); err != nil {
		return err
	}
	return compareChanges(ctx, both, load, o, results)
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s ==> %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
