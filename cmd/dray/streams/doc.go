// Package streams is `dray logs`, `dray exec`, `dray attach` and `dray port-forward`: kubectl's own
// commands over Drayage's pods.
//
// kubectl's commands know core pods, and find a pod's streams in its core subresources. A transport below
// them sends what they ask for to Drayage's groups and names upstream's in the answers (translate.go), and
// a static mapping says which kinds lead to pods. So flags, wording, terminal handling, the fallback from
// WebSocket to SPDY and exit codes are kubectl's. Each constructor returns a command for cmd/dray.
package streams
