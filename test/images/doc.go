// Package images builds the small images that specs and the sample application run, from Go sources, and
// serves them from a registry of its own, so that nothing is fetched from anywhere.
//
// Images: a demo application under every name that the reference manifests use, a busybox-like tool image
// and pause. Specs, the demo of `make run` and benchmarks call it; the product never does.
package images
