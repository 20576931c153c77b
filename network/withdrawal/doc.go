// Package withdrawal makes sure that a terminating pod gets no new connections from any node before it is
// stopped. It reports to the control plane up to which revision this node's kernel has the EndpointSlices,
// and asks whether every Ready node has the one that shows a pod as terminating.
//
// The agent's command joins it to the agent (as its Withdrawal) and to the service proxy. It stops no pod
// and writes no rule.
package withdrawal
