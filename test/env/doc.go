// Package env starts a real control plane inside a test's process: etcd and the API server with Drayage's
// kinds, on loopback, on a port of its own, in a temporary directory. Specs use it where watch, patch,
// validation or ownership matter. Several may run at once.
//
// It runs no controller, no scheduler and no agent of Drayage; what a spec needs of those it starts itself.
package env
