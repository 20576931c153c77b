// Package quiet keeps the storage client of the API server from warning about every request that a clean
// stop cuts short. That client builds its logger from a global default while packages initialise, its
// level cannot be raised, and nothing later can replace it; this package imports next to nothing and so
// initialises before it. Nothing is lost: what fails for good is also returned as an error.
//
// Package controlplane imports it for effect.
package quiet

import "go.etcd.io/etcd/client/pkg/v3/logutil"

func init() {
	logutil.DefaultZapLoggerConfig.OutputPaths = nil
}
