// Package certs makes and rotates the certificates that Drayage needs on a cluster that is not its own:
// one certificate authority in a Secret that all managers share, and beneath it, in each manager's own
// directory, a serving certificate for the webhooks and the aggregated API and a client certificate towards
// nodes. It tells the cluster whom to trust: the bundle goes into the webhook configurations and the
// APIService, and into a ConfigMap for the agents.
//
// Every manager runs it, leader or not. The API server settles races: the Secret is created once and changed
// by updates that carry its resource version. A new authority is trusted well before it signs, so no request
// ever meets a certificate that it does not trust.
//
// It never touches the certificates of the embedded control plane, which package controlplane/pki keeps.
package certs
