// Package clientcerts remembers for seconds which client certificates were verified, in front of the API server's own
// authenticator, which would verify each anew on every request.
//
// Package controlplane puts it there. It never decides whom to trust: it repeats what the authenticator said.
package clientcerts
