// Package endpointslice lists the pods behind each Service as EndpointSlices. What a slice says is
// upstream's reconciler's work (k8s.io/endpointslice), whose client is redirected to Drayage's kinds;
// this package feeds it from the manager's cache and decides when.
//
// Services without selector are their owner's business, and slices that another controller manages are
// left alone. A change of a pod reaches its services' slices with the next write, which takes a few
// milliseconds; changes that come meanwhile go with the write after that, so a flood of them costs a few
// writes per service.
package endpointslice
