// Package hostservice says at a Service when the cluster that Drayage is installed in has one of the same
// namespace and name: Drayage's pods reach Drayage's by that name, the cluster's pods the cluster's.
//
// Package core adds it on such a cluster only. It writes one condition, and nothing of the cluster's.
package hostservice
