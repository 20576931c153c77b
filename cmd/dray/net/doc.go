// Package net is `dray net check`: it reads pods, nodes, services and endpoints from the API, asks the
// agents of the nodes concerned to look at their networks (package network/check), and says in sentences
// what is broken. It changes nothing.
package net
