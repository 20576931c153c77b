// Package architecture holds the specs that keep the house in order: which room may import which.
// It has no code of its own.
package architecture
