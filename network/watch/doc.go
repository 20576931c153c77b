// Package watch follows Services, EndpointSlices and Nodes in the API for the service proxy, the DNS
// server and the pod network, in whichever process they are. It needs no discovery, so it starts before
// the kinds exist and simply waits for them. It keeps what the network reads of the API's objects and decides nothing.
package watch
