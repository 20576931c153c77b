package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many connections are made by one proxy before it is the other's turn.
	batch = 250
	// bulkTime is how long one bulk transfer lasts.
	bulkTime = 2 * time.Second
	// changeTimeout bounds the wait for one change.
	changeTimeout = time.Minute
)

// compareConnects measures connect(2) to random services, the proxies in turns.
func compareConnects(both [2]*subject, l *load, o options, results *report) error {
	var took [2][]time.Duration
	for len(took[0]) < o.connects {
		for i, s := range both {
			batch, err := s.connects(l, batch)
			if err != nil {
				return fmt.Errorf("connecting through %s: %w", s.kind, err)
			}
			took[i] = append(took[i], batch...)
		}
	}
	for _, p := range []int{50, 99} {
		results.add(fmt.Sprintf("connect/%d-services/p%d", l.size, p), "us per connect",
			microseconds(percentile(took[0], p)), microseconds(percentile(took[1], p)))
	}
	return nil
}

// connects connects and closes count times, on one thread.
func (s *subject) connects(l *load, count int) (took []time.Duration, err error) {
	err = s.clients.Do(func() error {
		for range count {
			// The one for bulk transfer answers like the others.
			duration, err := connect(l.address(rand.IntN(l.size)))
			if err != nil {
				return err
			}
			took = append(took, duration)
		}
		return nil
	})
	return took, err
}

func connect(to netip.AddrPort) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// No TIME_WAIT: tens of thousands of connections would run out of ports.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, err
	}
	address := &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	begun := time.Now()
	for {
		err := unix.Connect(fd, address)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EALREADY) {
			if errors.Is(err, unix.EISCONN) {
				err = nil
			}
			return time.Since(begun), err
		}
	}
}

// compareThroughput sends as much as goes through one connection, the proxies in turns, and takes the
// median of the rounds.
func compareThroughput(both [2]*subject, l *load, o options, results *report) error {
	var sent [2][]float64
	for range o.rounds {
		for i, s := range both {
			rate, err := s.bulk(l.address(bulkService))
			if err != nil {
				return fmt.Errorf("sending through %s: %w", s.kind, err)
			}
			sent[i] = append(sent[i], rate)
		}
	}
	for i := range sent {
		slices.Sort(sent[i])
	}
	results.addMore("throughput", "Gbit/s through one connection", sent[0][o.rounds/2], sent[1][o.rounds/2])
	return nil
}

// bulk returns gigabits per second.
func (s *subject) bulk(to netip.AddrPort) (float64, error) {
	conn, err := s.clients.Dial("tcp4", to.String(), time.Second)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	buffer, total, begun := make([]byte, 256<<10), 0, time.Now()
	for time.Since(begun) < bulkTime {
		n, err := conn.Write(buffer)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return float64(total) * 8 / 1e9 / time.Since(begun).Seconds(), nil
}

// compareChanges changes one endpoint again and again and waits, each time, until a new connection
// reaches the new one.
func compareChanges(ctx context.Context, both [2]*subject, l *load, o options, results *report) error {
	var took [2][]time.Duration
	var cpu, peak [2]float64
	for i, s := range both {
		count := o.changes
		if s.kind == kubeProxy {
			count = o.peerChanges
		}
		progress("%d changes of an endpoint with %s", count, s.kind)
		before, err := s.cpu()
		if err != nil {
			return err
		}
		for n := range count {
			duration, err := s.follow(ctx, l, fmt.Sprintf("10.244.101.%d", 2+n%100))
			if err != nil {
				return err
			}
			took[i] = append(took[i], duration)
		}
		after, err := s.settle(ctx)
		if err != nil {
			return err
		}
		cpu[i] = microseconds((after-before)/time.Duration(count)) / 1000
		if peak[i], err = s.peak(); err != nil {
			return err
		}
	}
	for _, p := range []int{50, 99} {
		results.add(fmt.Sprintf("one-change/p%d", p), "ms from API write to a connection that sees it",
			microseconds(percentile(took[0], p))/1000, microseconds(percentile(took[1], p))/1000)
	}
	results.add("one-change/cpu", "ms CPU of the proxy per change", cpu[0], cpu[1])
	results.add("peak-rss", "MiB", peak[0], peak[1])
	return nil
}

// follow changes the endpoint and returns how long after the write was sent a connection reached it.
func (s *subject) follow(ctx context.Context, l *load, endpoint string) (time.Duration, error) {
	sent, err := l.change(ctx, s.kind, endpoint)
	if err != nil {
		return 0, err
	}
	for {
		answered, err := s.ask(l.address(changeService), time.Second)
		if err == nil && answered == endpoint {
			return time.Since(sent), nil
		}
		if time.Since(sent) > changeTimeout || ctx.Err() != nil {
			return 0, fmt.Errorf("%s still leads to %q, not to %s (%w)", s.kind, answered, endpoint, err)
		}
		// Often enough for milliseconds, seldom enough to leave the processor to the proxy.
		time.Sleep(200 * time.Microsecond)
	}
}

func percentile(durations []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
