// Package volumes puts a pod's volumes on the node and takes them away again.
//
// It owns the directories <pods>/<uid>/volumes, <pods>/<uid>/plugins and <pods>/<uid>/volume-subpaths,
// in kubelet's layout, and everything that is mounted there. Contents, modes and ownership come from
// upstream's volume plugins (configmap, secret, downwardapi, projected, hostpath), hosted here; only
// emptyDir is the package's own, because upstream's draws in the whole of kubelet's container manager.
//
// The agent's pod workers call it: Mount before a pod's first container, Mounts for each container,
// Refresh while the pod lives, Unmount when nothing of the pod runs any more. Every call is idempotent
// and finds its state on disk, so a killed agent just calls again.
//
// It never talks to the API server: Secrets, ConfigMaps and tokens come through Objects.
package volumes
