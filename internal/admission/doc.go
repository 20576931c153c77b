// Package admission prepares and validates the objects that enter the API: it defaults them, resolves
// what they refer to and says what is wrong with them, with upstream's code and so in upstream's words.
//
// It works on upstream's types, which every Drayage kind embeds. Its callers are the in-process plugin
// and the HTTP webhooks (drayage.dev/webhooks), and the workload controllers, which prepare a pod
// before they create it. It reads through Lookup and never writes to the API, except through the small
// PodPatcher by which a DELETE's grace period reaches the pod.
//
// What Drayage does not implement is refused by name (see Unimplemented); nothing is dropped silently.
package admission
