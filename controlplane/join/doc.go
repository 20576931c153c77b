// Package join lets machines into a cluster, and is what both sides agree on: what a join token looks like,
// which group it gives, how a node's certificates are named.
//
// A token is a Kubernetes bootstrap token with the pin of the cluster's authority behind it. A joining
// machine trusts the server that shows the pinned authority, asks it for a client certificate with the
// token, and from then on renews its own certificates as itself. `dray token` manages tokens; `dray agent
// --join` and `dray up` join. Nothing here decides who may have a certificate: package nodecerts does.
package join
