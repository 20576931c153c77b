// Package app is the command line of dray: the tree of all commands, what they have in common, and the exit
// code of an error. It is called by the binary, by the generator of docs/cli.md and by specs; it has no command
// of its own.
package app
