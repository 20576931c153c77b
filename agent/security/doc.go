// Package security turns security contexts of pods and containers into what the container runtime
// understands, as kubelet does: users, groups, capabilities, seccomp, namespaces, proc masks, sysctls.
//
// The agent calls it when it makes a sandbox or a container. It is pure: it reads no file and keeps
// nothing.
package security
