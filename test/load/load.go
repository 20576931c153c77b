package load

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// pace is how often each worker asks.
const pace = 70 * time.Millisecond

// DialContext connects as net.Dialer's method of the name.
type DialContext func(ctx context.Context, network, address string) (net.Conn, error)

// Load asks until End. A request is lost when its client sees an error, no answer in ten seconds or a status
// that is not 200. What Go's client repeats by itself is not: a GET on a kept connection that the server has
// closed while it was idle.
type Load struct {
	start time.Time
	stop  chan struct{}
	done  sync.WaitGroup

	mu     sync.Mutex
	phase  int
	phases []Phase
}

// Phase is what came of the requests that began while something was going on.
type Phase struct {
	Name string
	// Sent counts them, Lost says of each that was lost when it began and what its client saw.
	Sent int
	Lost []string
}

// Result is what came of all.
type Result struct {
	// Sent and Lost count requests; Rate is how many there were a second.
	Sent, Lost int
	Rate       float64
	Phases     []Phase
}

// Failures are the lost requests of all phases.
func (r Result) Failures() (lost []string) {
	for _, phase := range r.Phases {
		lost = append(lost, phase.Lost...)
	}
	return lost
}

// Start starts as many workers of each kind, of which each asks url fourteen times a second.
func Start(dial DialContext, url string, workers int) *Load {
	l := &Load{start: time.Now(), stop: make(chan struct{}), phases: []Phase{{Name: "calm"}}}
	for _, kept := range []bool{false, true} {
		for range workers {
			l.done.Go(func() { l.work(dial, url, kept) })
		}
	}
	return l
}

// Now says what is going on from now on.
func (l *Load) Now(phase string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase, l.phases = l.phase+1, append(l.phases, Phase{Name: phase})
}

// End ends the load and returns what came of it.
func (l *Load) End() Result {
	close(l.stop)
	l.done.Wait()
	r := Result{Phases: l.phases}
	for _, phase := range l.phases {
		r.Sent += phase.Sent
		r.Lost += len(phase.Lost)
	}
	r.Rate = float64(r.Sent) / time.Since(l.start).Seconds()
	return r
}

func (l *Load) work(dial DialContext, url string, kept bool) {
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: !kept}
	defer transport.CloseIdleConnections()
	asking := &http.Client{Timeout: 30 * time.Second, Transport: transport}
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-ticker.C:
		}
		l.mu.Lock()
		phase := l.phase
		l.phases[phase].Sent++
		l.mu.Unlock()
		start := time.Now()
		if err := ask(asking, url); err != nil {
			l.mu.Lock()
			l.phases[phase].Lost = append(l.phases[phase].Lost, fmt.Sprintf("%s while %s, kept connection: %t, after %s: %v",
				start.Format("15:04:05.000"), l.phases[phase].Name, kept, time.Since(start).Round(time.Millisecond), err))
			l.mu.Unlock()
		}
	}
}

func ask(asking *http.Client, url string) error {
	response, err := asking.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", response.Status)
	}
	return nil
}
