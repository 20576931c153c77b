// Package service gives Services their cluster addresses and node ports, answers load balancers with the
// addresses of the ready nodes, and sums Services up for `kubectl get`.
//
// What a Service asks for by name is claimed exactly, or its conditions say who has it; what it leaves
// open is drawn at random. Claims are Allocations (package claims), so that two managers at work at once
// never give one thing to two Services. Endpoints are the endpointslice package's business, and how
// packets find them the nodes'.
package service
