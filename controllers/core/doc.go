// Package core adds the controllers of the core group to a manager: Services and their endpoints, Nodes,
// and the collector of pods that no agent will ever end. Package controllers calls it.
package core
