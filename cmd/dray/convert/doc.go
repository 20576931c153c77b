// Package convert is `dray convert`: ordinary Kubernetes manifests in, Drayage's out.
//
// One rule does it: append .drayage.dev to the API group, for the kinds that Drayage has (which are those
// of the embedded CRDs). What every API server has stays as it is, RBAC rules are doubled for Drayage's
// groups, and everything else is left out and named. Manifests are edited as YAML nodes, so comments and
// the order of fields survive. Nothing is asked of an API server.
package convert
