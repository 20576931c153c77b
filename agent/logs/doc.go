// Package logs keeps the logs of containers bounded: a file that has grown too large is renamed, the
// runtime is asked to begin a new one, and old ones are deleted.
//
// cmd/dray-agent runs it. The runtime writes the logs, agent/streaming reads them, and pod workers remove
// them with their pod.
package logs
