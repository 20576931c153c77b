// Package ipam owns which sandbox has which pod address of the node's ranges. The truth is one file
// per address in a directory: whoever manages to link the file has the address, so that no crash at
// any line gives an address to two sandboxes.
//
// Package podnet calls it. It never touches the network and never decides which sandboxes live.
package ipam
