// Package security holds the specs of what a stolen credential of a node can and cannot do: each line of
// the table in docs/security.md is tried against a real API server, with both forms of the identity. The
// table is made from the specs, so that neither can say what the other does not.
package security
