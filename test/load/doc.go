// Package load asks a URL steadily, over new connections and over kept ones, and counts what was lost. The
// end-to-end specs and the comparison with upstream call it, with the one application that it brings; it knows nothing of
// either cluster.
package load
