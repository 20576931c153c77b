// Package node is the vocabulary that the agent and the network of one node share: how a pod is named
// between them and what the network gave it. The two rooms never import each other; the agent declares
// the interfaces (package agent), the network satisfies them with these types, and cmd joins the two.
//
// It owns plain data, never behaviour.
package node
