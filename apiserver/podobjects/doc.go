// Package podobjects is the broker of Secrets, ConfigMaps and service account tokens: it streams to a
// node the objects that the pods bound to that node refer to, and mints tokens of their service accounts.
// So a node's identity needs no permission on any of them, and a stolen one reads what its own pods use.
//
// The binding is the permission: each stream watches the pods of its node in the API, never a list that
// the node sends. Objects are watched one by one (a watch by metadata.name costs the API server next to
// nothing), and each is watched once however many nodes refer to it. Nothing is stored, and what the
// broker holds in memory goes when the last stream that needs it ends.
//
// Package apiserver calls it, behind the API server's authentication and authorisation. It never writes
// an object, and never puts data of a Secret into a log line or an error.
package podobjects
