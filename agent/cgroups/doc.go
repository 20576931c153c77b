// Package cgroups keeps the control groups of the node's pods: one parent for everything that Drayage
// runs, a group per pod below it, in whatever layout the machine has (version 1, hybrid, or version 2).
//
// The agent makes a pod's group before its sandbox and removes it after; runtimes ask it to kill what is
// left in one. It never touches a group outside its root.
package cgroups
