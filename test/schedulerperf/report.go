package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"k8s.io/component-base/metrics/testutil"
)

// outputVariable names the file that gets JSON lines.
const outputVariable = "BENCH_JSON"

// attemptLatency is how long successful attempts took since the scheduler's start, by linear interpolation within
// upstream's buckets.
func attemptLatency(metrics string) (p50, p99 time.Duration, err error) {
	counts, err := attempts(metrics)
	if err != nil {
		return 0, 0, err
	}
	return quantile(counts, 0.5), quantile(counts, 0.99), nil
}

// attempts returns cumulative counts of successful attempts by their bucket's upper bound in seconds.
func attempts(text string) (map[float64]float64, error) {
	metrics := testutil.NewMetrics()
	if err := testutil.ParseMetrics(text, &metrics); err != nil {
		return nil, fmt.Errorf("reading the scheduler's metrics: %w", err)
	}
	counts := map[float64]float64{}
	for _, sample := range metrics["scheduler_scheduling_attempt_duration_seconds_bucket"] {
		if sample.Metric["result"] != "scheduled" {
			continue
		}
		bound, err := strconv.ParseFloat(string(sample.Metric["le"]), 64)
		if err != nil {
			return nil, fmt.Errorf("reading the scheduler's metrics: %w", err)
		}
		counts[bound] += float64(sample.Value)
	}
	return counts, nil
}

func quantile(counts map[float64]float64, q float64) time.Duration {
	bounds := make([]float64, 0, len(counts))
	for bound := range counts {
		bounds = append(bounds, bound)
	}
	slices.Sort(bounds)
	if len(bounds) == 0 {
		return 0
	}
	rank := q * counts[bounds[len(bounds)-1]]
	low, below := 0.0, 0.0
	for _, bound := range bounds {
		if n := counts[bound]; n >= rank {
			if math.IsInf(bound, 1) || n == below {
				return time.Duration(low * float64(time.Second))
			}
			return time.Duration((low + (bound-low)*(rank-below)/(n-below)) * float64(time.Second))
		}
		low, below = bound, counts[bound]
	}
	return time.Duration(low * float64(time.Second))
}

// report prints a line per workload, as soon as it is known, and writes JSON lines.
type report struct {
	table *tabwriter.Writer
	lines *json.Encoder
	file  *os.File
}

func newReport(out io.Writer) (*report, error) {
	r := &report{table: tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)}
	if name := os.Getenv(outputVariable); name != "" {
		var err error
		if r.file, err = os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644); err != nil {
			return nil, err
		}
		r.lines = json.NewEncoder(r.file)
	}
	fmt.Fprintln(r.table, "workload\tpods\tpods/s\tupstream\tratio\tp50 ms\tupstream\tp99 ms\tupstream\tscheduler CPU us\tupstream\tratio\tAPI CPU us\tupstream\t")
	return r, nil
}

func (r *report) add(w *workload, own, other *outcome) error {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e6) }
	fmt.Fprintf(r.table, "%s\t%d\t%.0f\t%.0f\t%.2f\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%d\t%d\t\n", w.name(), own.pods,
		own.rate(), other.rate(), own.rate()/other.rate(), ms(own.p50), ms(other.p50), ms(own.p99), ms(other.p99),
		own.schedulerCPU.Microseconds(), other.schedulerCPU.Microseconds(), quotient(other.schedulerCPU, own.schedulerCPU),
		own.apiCPU.Microseconds(), other.apiCPU.Microseconds())
	if r.lines == nil {
		return nil
	}
	for _, line := range []struct {
		name, unit string
		ours, peer float64
		moreIsBad  bool
	}{
		{"rate", "pods/s", own.rate(), other.rate(), false},
		{"attempt p50", "ms", float64(own.p50) / 1e6, float64(other.p50) / 1e6, true},
		{"attempt p99", "ms", float64(own.p99) / 1e6, float64(other.p99) / 1e6, true},
		{"scheduler CPU", "us per pod", float64(own.schedulerCPU.Microseconds()), float64(other.schedulerCPU.Microseconds()), true},
		{"API server CPU", "us per pod", float64(own.apiCPU.Microseconds()), float64(other.apiCPU.Microseconds()), true},
	} {
		ratio := line.ours / line.peer
		if line.moreIsBad {
			ratio = line.peer / line.ours
		}
		if math.IsNaN(ratio) || math.IsInf(ratio, 0) {
			ratio = 0
		}
		if err := r.lines.Encode(map[string]any{
			"name": "scheduler_perf/" + w.name() + "/" + line.name, "unit": line.unit, "ours": line.ours, "peer": line.peer, "ratio": ratio,
		}); err != nil {
			return err
		}
	}
	return nil
}

// quotient is a ratio of times, "-" where a workload is too short for one.
func quotient(a, b time.Duration) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(a)/float64(b))
}

func (r *report) close() error {
	if err := r.table.Flush(); err != nil {
		return err
	}
	if r.file != nil {
		return r.file.Close()
	}
	return nil
}
