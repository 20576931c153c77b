// Command tool is the busybox-like binary of the tool image: a POSIX shell and a handful of commands,
// chosen by the name that it is called by. It knows the options that specs and samples use, no more, and
// refuses others.
package main
