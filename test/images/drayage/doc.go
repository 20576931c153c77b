// Command drayage assembles Drayage's own OCI image from the binaries in bin/, without a Docker engine.
// The Dockerfile makes the same image where there is one.
package main
