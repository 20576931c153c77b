// Package diagnostics is what every binary of Drayage shows of itself: /healthz, /livez, /readyz, /metrics, and over
// TLS, to who may, /debug/pprof. It also adds the flags of the log. The commands under cmd/ call it. It never decides
// what a component counts or when it is ready.
package diagnostics
