// Package config carries the cluster-wide manifests of Drayage inside its binaries: the custom resource
// definitions (generated from apis), the RBAC roles of the components and the admission policies. It only
// reads what it embeds; who applies them is the embedded control plane or the Helm chart.
package config
