// Package spec says what a node's kernel should do with packets to service addresses: for each
// frontend (an address, a protocol and a port) the slots among which connections are spread. It is the
// boundary between package proxy, which compiles API objects to it, and the back ends that apply it
// (package nftables). It owns plain data and its comparison, never policy.
package spec
