package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ResultsDir is where the runtime's CNI library caches what each attachment was given. It belongs to the
// machine: other runtimes keep theirs there, too.
const ResultsDir = "/var/lib/cni/results"

// ForgetResults removes the cached results of one node's sandboxes, except those that keep names. The
// library removes them when a sandbox is taken down in order; what is killed leaves them behind. A node is
// known by its agent's socket, which stands in the cached configuration; other entries are left alone.
func ForgetResults(dir, socket string, keep func(sandbox string) bool) error {
	files, err := filepath.Glob(filepath.Join(dir, NetworkName+"-*"))
	if err != nil {
		return err
	}
	var failed []error
	for _, file := range files {
		sandbox, ours := resultOf(file, socket)
		if !ours || keep(sandbox) {
			continue
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, fmt.Errorf("forgetting a network result: %w", err))
		}
	}
	return errors.Join(failed...)
}

// resultOf returns the sandbox of a cached result, and whether it was attached through the socket.
func resultOf(file, socket string) (sandbox string, ours bool) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", false
	}
	cached := struct {
		ContainerID string `json:"containerId"`
		Config      []byte `json:"config"`
	}{}
	if err := json.Unmarshal(content, &cached); err != nil {
		return "", false
	}
	configuration := struct {
		Plugins []Config `json:"plugins"`
	}{}
	if err := json.Unmarshal(cached.Config, &configuration); err != nil {
		return "", false
	}
	for _, plugin := range configuration.Plugins {
		if plugin.Type == Plugin && plugin.Socket == socket {
			return cached.ContainerID, true
		}
	}
	return "", false
}
