// Package metrics counts what the agent does under kubelet's names, with kubelet's own definitions, so that dashboards
// made for kubelets show agents; what kubelet does not do has names that begin with drayage_agent. The agent's parts call
// it; package internal/diagnostics serves it. It holds no state but the counters.
package metrics
