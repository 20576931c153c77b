// Package e2e proves the product from the outside: specs that start whole clusters (test/cluster), apply
// the manifests that users have, and look at what runs. It has no code that others use.
package e2e
