// Package delete is `dray delete`: kubectl's delete, with grace periods that Drayage's pods obey.
//
// The API server ignores a grace period on custom resources and keeps a pod until its node's finalizer
// goes. So a transport below kubectl's command writes the grace period into the pod's annotation before
// it sends the DELETE, and takes the finalizer off after it when the deletion is forced. Everything else
// is kubectl's own doing.
package delete
