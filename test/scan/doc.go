// Command scan judges what `make scan` pipes into it: `scan manifests` decodes manifests as strictly as an API server
// would, `scan vulnerabilities <file>` reads govulncheck's JSON and fails for what the binaries call, unless the
// file names it.
package main
