// Package garbage decides how much garbage a process of ours lets lie before it is collected: little while it has little to do,
// so that its memory is small, and more under load, when collecting would take a good part of its CPU.
//
// The embedded API server and the scheduler call it. It sets Go's knobs (GOGC, GOMEMLIMIT) and nothing else, and none that the
// environment sets.
package garbage
