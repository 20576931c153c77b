package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

func main() {
	role := flag.String("role", "", "what this process is to the one that started it")
	dir := flag.String("dir", "", "the role's directory")
	var o options
	flag.StringVar(&o.scale, "scale", "default", "sizes of workloads: small, default, large")
	flag.StringVar(&o.only, "workloads", "", "regular expression that names of workloads match")
	flag.StringVar(&o.side, "side", "", "run this side only")
	flag.BoolVar(&o.creating, "creating", false, "create pods while they are scheduled, as upstream's test does, not before")
	flag.StringVar(&o.profiles, "profiles", "", "directory for CPU profiles of the API servers")
	flag.Parse()
	err := serveOrBench(*role, *dir, &o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "schedulerperf:", err)
		os.Exit(1)
	}
}

// options say what is run, and how.
type options struct {
	scale, only, side string
	creating          bool
	profiles          string
}

func serveOrBench(role, dir string, o *options) error {
	if role != "" {
		return serve(role, dir)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return bench(ctx, o)
}

// bench runs the workloads of a scale whose names match only.
func bench(ctx context.Context, options *options) error {
	match, err := regexp.Compile(options.only)
	if err != nil {
		return err
	}
	workloads, left, err := load(options.scale)
	if err != nil {
		return err
	}
	// Short, for the sake of etcd's socket.
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	out, err := newReport(os.Stdout)
	if err != nil {
		return err
	}
	failures := 0
	for _, w := range workloads {
		if !match.MatchString(w.name()) {
			continue
		}
		results := map[string]*outcome{}
		for _, name := range []string{peer, ours} {
			if options.side != "" && options.side != name {
				continue
			}
			start := time.Now()
			state := filepath.Join(dir, name)
			if err := os.MkdirAll(state, 0o700); err != nil {
				return err
			}
			o, err := measure(ctx, w, name, state, options)
			if err != nil {
				failures++
				fmt.Fprintf(os.Stderr, "%s, %s: %v\n", w.name(), name, err)
				continue
			}
			results[name] = o
			fmt.Fprintf(os.Stderr, "%s, %s: %d pods, %.0f pods/s (created in %.1fs, bound in %.1fs, events written after %.1fs), p50 %s, p99 %s, CPU per pod: scheduler %s, API server %s; %s in all\n",
				w.name(), name, o.pods, o.rate(), o.created.Seconds(), o.elapsed.Seconds(), o.told.Seconds(),
				o.p50.Round(10*time.Microsecond), o.p99.Round(10*time.Microsecond), o.schedulerCPU, o.apiCPU, time.Since(start).Round(time.Second))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(results) == 2 {
			if err := out.add(w, results[ours], results[peer]); err != nil {
				return err
			}
		}
	}
	if err := out.close(); err != nil {
		return err
	}
	if options.only == "" {
		fmt.Println("\nnot run:")
		for _, line := range left {
			fmt.Println(" ", line)
		}
	}
	if failures > 0 {
		return fmt.Errorf("%d runs failed", failures)
	}
	return nil
}
