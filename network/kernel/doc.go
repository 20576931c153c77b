// Package kernel names what Drayage puts into a node's kernel (links, routes, rules, tables), so that
// every owner recognises its own, and leads into the node's network namespace.
//
// All of the room's packages call it. It never changes anything in the kernel by itself, except
// through Cleanup, which takes back everything that bears Drayage's names.
package kernel
