// Package controllers holds the one list of Drayage's controllers. It adds them to a manager, with the
// cache indexes that several of them share. dray-manager calls it; the controllers themselves live in a
// package per kind below, and none of them ever talks to a node.
package controllers
