// Package status computes what the agent reports of a pod, and writes it.
//
// Generate is pure: a pod, what the runtime holds of it and what its worker knows become a PodStatus as
// kubelet would report it (upstream's own functions make the conditions). Writer turns successive
// statuses into as few patches as show a user every difference.
//
// Pod workers call both. The package decides nothing about containers.
package status
