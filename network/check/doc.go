// Package check finds what is broken on the ways from a node to pods, nodes and services, and says it in
// sentences: the kernel's routes, tunnel and service maps against what they should be, DNS answers, and
// packets that it sends for the purpose. `dray net check` asks for it through the aggregated API and the
// agent's server. It changes nothing, and never repairs: the agent's own parts do.
package check
