package podworker

import "github.com/moby/sys/mountinfo"

// mountedBelow returns the mount points at dir and below it.
func mountedBelow(dir string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, err
	}
	var points []string
	for _, mount := range mounts {
		points = append(points, mount.Mountpoint)
	}
	return points, nil
}
