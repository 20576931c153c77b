// Package client is how the commands of dray reach the API server: the flags that name it, the places
// that are looked at when no flag does, and the mapping from what people type ("pod", "deploy") to
// Drayage's resources. Every command that talks to the API server uses it; it makes no request itself.
package client
