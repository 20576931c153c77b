// Package images sees to it that the images of containers are on the node: pull policies, credentials,
// back-off and events are upstream's image manager, hosted here over the container runtime interface;
// images that nobody uses are collected when the disk fills up.
//
// Pod workers call Ensure; cmd/dray-agent runs Collect. It never touches a container.
package images
