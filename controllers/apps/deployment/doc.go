// Package deployment rolls out changes of a Deployment's template: it creates a ReplicaSet per template,
// moves replicas from old ones to the new one as fast as the strategy allows, keeps the history that a
// rollback needs, and reports progress in the Deployment's status. Rules and words are those of upstream's
// Deployment controller.
//
// How replicas move is the business of a Planner, which is pure: it sees an Observed and returns the sizes
// that it wants. The reconciler is the only writer of ReplicaSets' specs, whatever planner decides, and
// the only writer of a Deployment's status and revision annotation. It never touches a pod.
package deployment
