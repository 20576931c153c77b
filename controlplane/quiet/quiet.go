// Package quiet keeps the storage client of the API server from warning about every request that a clean
// stop cuts short. That client takes its level from the environment while packages initialise, and nothing
// later can change it; packages without imports, such as this one, initialise before it.
//
// Package controlplane imports it for effect. ETCD_CLIENT_DEBUG in the environment has its say first.
package quiet

import "os"

func init() {
	if os.Getenv("ETCD_CLIENT_DEBUG") == "" {
		_ = os.Setenv("ETCD_CLIENT_DEBUG", "error")
	}
}
