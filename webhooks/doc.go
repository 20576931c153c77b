// Package webhooks brings drayage.dev/internal/admission before the API server: as an in-process
// admission plugin of the embedded control plane (NewPlugin), and as HTTP handlers with the webhook
// configurations that lead an ordinary cluster to them (Register, Configurations).
//
// It looks at Drayage's kinds only and decides nothing itself: it finds out what a request wants, turns
// objects into upstream's types and back, and answers. Mutation prepares and validates, so that
// upstream's messages come before those of the schema; validation does it once more, so that nobody has
// the last word after it.
package webhooks
