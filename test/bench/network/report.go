package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

// figure is one line of the results. Ratio says how many times better ours is: above 1 is better.
type figure struct {
	Name  string  `json:"name"`
	Ours  float64 `json:"ours"`
	Peer  float64 `json:"peer"`
	Ratio float64 `json:"ratio"`
	Unit  string  `json:"unit"`
}

// report collects figures, prints them as a table at the end and appends them to a file at once.
type report struct {
	out     io.Writer
	file    *os.File
	figures []figure
}

// newReport opens the file of JSON lines; no name means none.
func newReport(out io.Writer, name string) (*report, error) {
	r := &report{out: out}
	if name == "" {
		return r, nil
	}
	var err error
	r.file, err = os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	return r, err
}

// add takes a figure in. Every ratio is the peer's divided by ours: above 1 is ours better, in times.
func (r *report) add(name, unit string, ours, peer float64) {
	r.ratio(name, unit, ours, peer, peer/ours)
}

// addMore is add for figures of which more is better.
func (r *report) addMore(name, unit string, ours, peer float64) {
	r.ratio(name, unit, ours, peer, ours/peer)
}

func (r *report) ratio(name, unit string, ours, peer, ratio float64) {
	f := figure{Name: "network/" + name, Ours: ours, Peer: peer, Ratio: ratio, Unit: unit}
	r.figures = append(r.figures, f)
	progress("%s: %.4g, peer %.4g, ratio %.3g (%s)", f.Name, ours, peer, ratio, unit)
	if r.file != nil {
		_ = json.NewEncoder(r.file).Encode(f)
	}
}

func (r *report) close() error {
	table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FIGURE\tOURS\tPEER\tRATIO\tUNIT")
	for _, f := range r.figures {
		fmt.Fprintf(table, "%s\t%.4g\t%.4g\t%.3g\t%s\n", f.Name, f.Ours, f.Peer, f.Ratio, f.Unit)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
