// Package rollout is `dray rollout`: kubectl's own rollout commands over Drayage's Deployments.
//
// kubectl's commands know apps/v1 only, in the objects they decode and in the paths they request. A
// transport below them translates the group's name in both directions (translate.go), and a static
// mapping says which kinds there are. Wording, flags, waiting and exit codes are kubectl's therefore.
package rollout
