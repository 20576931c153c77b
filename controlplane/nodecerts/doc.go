// Package nodecerts approves and signs the certificates of nodes: requests of certificates.k8s.io to the
// signers drayage.dev/node-client and drayage.dev/node-serving. What does not fit is denied with the reason
// in the request's condition; requests to other signers are left alone.
//
// Package controlplane runs it. What it grants is the identity of a node and nothing else; what a node may do
// is RBAC's and admission's to say.
package nodecerts
