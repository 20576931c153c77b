// Package version carries the version of this build. It never reads anything at run time.
package version

// Version is the build's version, set by the linker; "v0.0.0" where it was not.
var Version = "v0.0.0"
