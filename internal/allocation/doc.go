// Package allocation owns how a claim on a cluster-wide address, node port or pod CIDR is spelled: the
// name of an Allocation encodes what it claims, so that creating it is the compare-and-swap.
//
// Controllers build claims with it and read them; the control plane may, for what it sets aside. The
// package knows nothing of ranges or owners and never talks to the API.
package allocation
