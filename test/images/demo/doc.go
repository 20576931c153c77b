// Command demo is the application inside the demo images: a small HTTP server that tells what it sees of
// its pod, with the endpoints that probes use. Its role comes from DEMO_ROLE: app (the default), proxy (a
// TCP server such as the ambassador of a database) or shipper (prints what is written below /var/log).
package main
