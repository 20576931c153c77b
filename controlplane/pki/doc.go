// Package pki makes, keeps and renews the certificates and keys of one control plane: the cluster's
// certificate authority, the API server's serving certificate, the service-account signing key, and the
// client certificates of the components that run beside it.
//
// Everything lives in one directory, private keys with mode 0600. What is missing or close to its end is
// made anew, what is good is left alone, so that starting twice or after a crash changes nothing.
// Package controlplane calls it; it never talks to the API.
package pki
