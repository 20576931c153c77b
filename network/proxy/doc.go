// Package proxy turns Services and EndpointSlices into what the node's kernel does with service
// addresses. Model is the pure part: API objects in, frontends (package spec) out, the same whatever
// the order of events. Proxy feeds it from the API and applies what changes to a back end (package
// nftables), and tells when a terminating pod is out of the kernel.
//
// The agent runs one Proxy per node. It never touches pods, their links or DNS, and never removes the
// kernel's rules when it ends: they go on working, and the next Proxy takes them over.
package proxy
