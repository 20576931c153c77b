// Command demo is `make run`: it starts Drayage on this machine in the foreground, serves the demo images,
// applies the sample application, shows how it comes up and what to try, and takes everything away again
// at Ctrl-C, except the data directory.
package main
