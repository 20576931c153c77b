// Package watch follows Services and EndpointSlices in the API for the service proxy and the DNS
// server, each in its own process. It needs no discovery, so it starts before the kinds exist and
// simply waits for them. It keeps the API's objects and decides nothing.
package watch
