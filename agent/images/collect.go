package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
)

// Kubelet's defaults.
const (
	// highPercent of the disk in use begins a collection, which ends at lowPercent.
	highPercent = 85
	lowPercent  = 80
	// minAge is how long an image is left alone after it was first seen.
	minAge = 2 * time.Minute
	// collectPeriod is how often the disk is looked at.
	collectPeriod = 5 * time.Minute
)

// Collector deletes images that no container uses when the disk fills up, the longest unused first.
type Collector struct {
	// Images and Containers are the runtime's services.
	Images     runtimeapi.ImageServiceClient
	Containers runtimeapi.RuntimeServiceClient
	// Dir is on the disk that holds the images.
	Dir string
	// Keep is an image that is never deleted: the sandboxes'.
	Keep  string
	Clock clock.PassiveClock

	// seen and used say when an image was first seen, and last in use, by id.
	seen, used map[string]time.Time
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	log := logr.FromContextOrDiscard(ctx).WithName("images")
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		deleted, err := c.Collect(ctx, diskUse)
		if len(deleted) > 0 {
			log.Info("Deleted images that nothing uses", "images", deleted)
		}
		if err != nil && ctx.Err() == nil {
			log.Info("Images not collected", "err", err.Error())
		}
	}, collectPeriod)
}

// diskUse returns how many percent of the disk are in use.
func diskUse(dir string) (int, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, fmt.Errorf("asking the disk of %s for its size: %w", dir, err)
	}
	if stat.Blocks == 0 {
		return 0, nil
	}
	return int(100 - stat.Bavail*100/stat.Blocks), nil
}

// Collect looks at the disk once, by way of use, and returns the images that it deleted.
func (c *Collector) Collect(ctx context.Context, use func(dir string) (percent int, err error)) (deleted []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, collectPeriod)
	defer cancel()
	candidates, err := c.unused(ctx)
	if err != nil {
		return nil, err
	}
	percent, err := use(c.Dir)
	if err != nil || percent < highPercent {
		return nil, err
	}
	for _, image := range candidates {
		if _, err := c.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image.Id}}); err != nil {
			return deleted, fmt.Errorf("deleting image %s: %w", image.Id, message(err))
		}
		deleted = append(deleted, slices.Concat(image.RepoTags, []string{image.Id})[0])
		if percent, err = use(c.Dir); err != nil || percent < lowPercent {
			return deleted, err
		}
	}
	return deleted, errors.New("the disk stays nearly full: no image is left that nothing uses")
}

// unused returns the images that may be deleted, the longest unused first.
func (c *Collector) unused(ctx context.Context) ([]*runtimeapi.Image, error) {
	images, err := c.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", message(err))
	}
	containers, err := c.Containers.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", message(err))
	}
	now := c.now()
	inUse := map[string]bool{c.Keep: true}
	for _, container := range containers.Containers {
		inUse[container.ImageRef], inUse[container.ImageId], inUse[container.Image.GetImage()] = true, true, true
	}
	seen, used := map[string]time.Time{}, map[string]time.Time{}
	var candidates []*runtimeapi.Image
	for _, image := range images.Images {
		seen[image.Id], used[image.Id] = c.seen[image.Id], c.used[image.Id]
		if seen[image.Id].IsZero() {
			seen[image.Id] = now
		}
		names := slices.Concat([]string{image.Id}, image.RepoTags, image.RepoDigests)
		switch {
		case slices.ContainsFunc(names, func(name string) bool { return inUse[name] }):
			used[image.Id] = now
		case !image.Pinned && now.Sub(seen[image.Id]) >= minAge:
			candidates = append(candidates, image)
		}
	}
	c.seen, c.used = seen, used
	slices.SortStableFunc(candidates, func(a, b *runtimeapi.Image) int {
		if order := used[a.Id].Compare(used[b.Id]); order != 0 {
			return order
		}
		return seen[a.Id].Compare(seen[b.Id])
	})
	return candidates, nil
}

func (c *Collector) now() time.Time {
	if c.Clock == nil {
		return time.Now()
	}
	return c.Clock.Now()
}
