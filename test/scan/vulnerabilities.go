package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// message is what is read of govulncheck's JSON stream.
type message struct {
	OSV *struct {
		ID      string `json:"id"`
		Summary string `json:"summary"`
	} `json:"osv"`
	Finding *struct {
		OSV          string  `json:"osv"`
		FixedVersion string  `json:"fixed_version"`
		Trace        []frame `json:"trace"`
	} `json:"finding"`
	Config *struct {
		DB             string `json:"db"`
		DBLastModified string `json:"db_last_modified"`
	} `json:"config"`
}

type frame struct {
	Module   string `json:"module"`
	Version  string `json:"version"`
	Package  string `json:"package"`
	Function string `json:"function"`
	Receiver string `json:"receiver"`
}

// finding is a vulnerability whose code is called.
type finding struct{ module, version, fixed, called string }

// vulnerabilities fails for each vulnerability that is called and that known, a line each of its id and why it
// is left, does not name; and for each that known names without need.
func vulnerabilities(in io.Reader, known string, out io.Writer) error {
	excused, err := parseKnown(known)
	if err != nil {
		return err
	}
	summaries, called, scanned := map[string]string{}, map[string]finding{}, false
	for decoder := json.NewDecoder(in); ; {
		var m message
		if err := decoder.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("reading govulncheck's output: %w", err)
		}
		switch {
		case m.Config != nil:
			scanned = true
			fmt.Fprintf(out, "vulnerabilities known to %s, of %s\n", m.Config.DB, m.Config.DBLastModified)
		case m.OSV != nil:
			summaries[m.OSV.ID] = m.OSV.Summary
		case m.Finding != nil && len(m.Finding.Trace) > 0 && m.Finding.Trace[0].Function != "":
			at := m.Finding.Trace[0]
			called[m.Finding.OSV] = finding{
				module: at.Module, version: at.Version, fixed: m.Finding.FixedVersion,
				called: strings.ReplaceAll(at.Package+"."+at.Receiver+"."+at.Function, "..", "."),
			}
		}
	}
	if !scanned {
		return errors.New("govulncheck has not run: see its message above; GOVULNDB may name another database")
	}
	var open []string
	for _, id := range slices.Sorted(maps.Keys(called)) {
		f := called[id]
		if why, left := excused[id]; left {
			fmt.Fprintf(out, "%s is left: %s\n", id, why)
			delete(excused, id)
			continue
		}
		open = append(open, fmt.Sprintf("%s: %s: %s %s calls %s; fixed in %q", id, summaries[id], f.module, f.version, f.called, f.fixed))
	}
	for _, id := range slices.Sorted(maps.Keys(excused)) {
		fmt.Fprintf(out, "%s is excused and not found (any more)\n", id)
	}
	if len(open) > 0 {
		return fmt.Errorf("%d vulnerabilities:\n%s", len(open), strings.Join(open, "\n"))
	}
	fmt.Fprintf(out, "no vulnerability is called but those that are left (%d)\n", len(called))
	return nil
}

// parseKnown reads lines of an id and a reason; lines that begin with # are comments.
func parseKnown(text string) (map[string]string, error) {
	excused := map[string]string{}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, why, _ := strings.Cut(line, " ")
		if strings.TrimSpace(why) == "" {
			return nil, fmt.Errorf("reading the known vulnerabilities: %s has no reason", id)
		}
		excused[id] = strings.TrimSpace(why)
	}
	return excused, nil
}
