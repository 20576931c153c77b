// Package env makes the environment of a container, as kubelet makes it: values, references to other
// variables, keys of ConfigMaps and Secrets, fields of the pod, resources, files and services.
//
// The agent calls it just before it creates a container. The package keeps nothing, watches nothing and
// reads objects only through the interface that it is given.
package env
