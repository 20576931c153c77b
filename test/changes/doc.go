// Package changes shows a spec every change of objects. An API server ends the watch of a client that does not
// keep up, as one on a busy machine may not: what only counts on a channel that stays open misses changes then,
// and fails or, worse, passes for it.
//
// It is for what must be seen on the way. For a state that stays, ask for the object until it is there.
package changes
