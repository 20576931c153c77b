// Package scripted is a container runtime in memory, for specs: containers run until the spec says that
// they exit, and what fails fails as the spec has said. It keeps a log of what was done, in order.
//
// It is for specs of the agent only; no product code imports it.
package scripted
