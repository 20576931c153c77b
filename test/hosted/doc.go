// Package hosted proves Drayage as a guest: the chart charts/drayage, installed with Helm on a real
// kube-apiserver in a network namespace of its own. `make test-cluster` builds what it needs and runs it; the
// specs carry the build tag cluster.
//
// No kubelet runs here. The suite plays it for the control side: it starts the commands of the chart's
// Deployments and Jobs as processes, each with a token of its service account and the arguments that the
// chart rendered.
package hosted
