// Package health answers load balancers that ask a node whether it has endpoints of a service whose
// traffic stays on the node (externalTrafficPolicy Local), each service at a port of its own
// (spec.healthCheckNodePort), in the words of upstream's kube-proxy. The service proxy says what to
// answer. It never looks at services or endpoints itself.
package health
