package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"drayage.dev/agent"
)

// Kubelet's defaults.
const (
	// DefaultMaxBytes is the size beyond which a log is rotated.
	DefaultMaxBytes = 10 << 20
	// DefaultMaxFiles is how many files a container's log may have, the current one among them.
	DefaultMaxFiles = 5
	// period is how often sizes are looked at.
	period = 10 * time.Second
)

// Runtime lists containers and begins new log files. agent/runtime/cri.Runtime satisfies it.
type Runtime interface {
	List(ctx context.Context, pods ...types.UID) ([]agent.PodState, error)
	ReopenLog(ctx context.Context, id string) error
}

// Rotator bounds the logs of a node's containers.
type Rotator struct {
	// Runtime writes the logs.
	Runtime Runtime
	// MaxBytes and MaxFiles bound one container's log; the defaults when zero.
	MaxBytes int64
	MaxFiles int
}

// Run rotates until ctx ends.
func (r Rotator) Run(ctx context.Context) {
	log := logr.FromContextOrDiscard(ctx).WithName("logs")
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		if err := r.Rotate(ctx); err != nil && ctx.Err() == nil {
			log.Info("Logs not rotated", "err", err.Error())
		}
	}, period)
}

// Rotate looks at every running container's log once.
func (r Rotator) Rotate(ctx context.Context) error {
	pods, err := r.Runtime.List(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, pod := range pods {
		for _, container := range pod.Containers {
			if container.Phase != agent.ContainerRunning || container.LogPath == "" {
				continue
			}
			if err := r.rotate(ctx, container.ID, container.LogPath); err != nil {
				failures = append(failures, fmt.Errorf("rotating %s: %w", container.LogPath, err))
			}
		}
	}
	return errors.Join(failures...)
}

func (r Rotator) rotate(ctx context.Context, id, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		// A crash between renaming and reopening: the runtime writes into the renamed file still.
		return r.Runtime.ReopenLog(ctx, id)
	}
	if err != nil || info.Size() < cmp.Or(r.MaxBytes, DefaultMaxBytes) {
		return err
	}
	if err := r.prune(path); err != nil {
		return err
	}
	// Names sort by age.
	renamed := path + "." + time.Now().UTC().Format("20060102-150405.000000000")
	if err := os.Rename(path, renamed); err != nil {
		return err
	}
	if err := r.Runtime.ReopenLog(ctx, id); err != nil {
		return errors.Join(err, os.Rename(renamed, path))
	}
	return nil
}

// prune deletes the oldest files, so that with the current one and the one about to be made there are no
// more than may be.
func (r Rotator) prune(path string) error {
	files, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(files)
	for len(files) > 0 && len(files) > cmp.Or(r.MaxFiles, DefaultMaxFiles)-2 {
		if err := os.Remove(files[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		files = files[1:]
	}
	return nil
}
