package garbage

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// usual is Go's default: as much garbage as there is memory in use, in percent.
	usual = 100
	// most is the largest share, in percent of the memory in use, that garbage ever gets. Beyond it there is little CPU
	// to save.
	most = 400
	// part is the part of the machine's memory, or the container's, that garbage may take under load: a sixteenth.
	part = 16
)

// Server is how close collections of an API server under load follow each other. It keeps what it serves, and makes much
// garbage for each request.
const Server = 2 * time.Second

// pacer holds what Pace works with; specs make it faster.
type pacer struct {
	room  int64         // bytes that garbage may take under load
	every time.Duration // how often it looks
	busy  time.Duration // collections closer together than this are load
	calm  time.Duration // how long there has to be none before the load is over
}

// Pace lets up to a sixteenth of the machine's memory, or its container's, and no more than four times what is in use, fill
// with garbage while collections follow each other within busy. Once there has been none for half a minute, what is free goes back to
// the machine and Go's default holds again. As the memory in use nears half of that memory it is collected as often as it takes to
// stay below. It works in the background until ctx ends. GOGC and GOMEMLIMIT in the environment prevail.
func Pace(ctx context.Context, busy time.Duration) {
	total := available(limitFiles)
	if total == 0 {
		return
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(total / 2)
	}
	if os.Getenv("GOGC") == "" {
		p := pacer{room: total / part, every: 500 * time.Millisecond, busy: busy, calm: 30 * time.Second}
		go p.run(ctx)
	}
}

// run adapts the percentage until ctx ends, and leaves the default behind.
func (p *pacer) run(ctx context.Context) {
	defer debug.SetGCPercent(usual)
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	percent, last := usual, time.Now()
	cycles, _ := collected()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			wanted := percent
			n, live := collected()
			switch {
			case n == cycles:
				if now.Sub(last) >= p.calm {
					wanted = usual
				}
			case n-cycles > 1 || now.Sub(last) < p.busy || percent > usual:
				wanted = p.share(live)
			}
			if n != cycles {
				cycles, last = n, now
			}
			if wanted != percent {
				percent = wanted
				debug.SetGCPercent(percent)
				if percent == usual {
					debug.FreeOSMemory() // the next collection may be minutes away, and gives little back
				}
			}
		}
	}
}

// share is the percentage by which garbage next to live bytes takes the room that there is.
func (p *pacer) share(live int64) int {
	return int(min(most, max(usual, 100*p.room/max(live, 1))))
}

// collected returns how many collections there have been and the bytes that the last one found in use.
func collected() (cycles uint64, live int64) {
	samples := []metrics.Sample{{Name: "/gc/cycles/automatic:gc-cycles"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), int64(samples[1].Value.Uint64()) //nolint:gosec // bytes of a heap
}
