// Package server is `dray server`: the control plane of a cluster in one process. It joins the embedded API
// server with Drayage's admission, aggregated API, controllers and scheduler, which know nothing of each
// other. `dray up` runs it too, with an agent beside it.
package server
