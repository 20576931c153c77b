// Package app is the dray-dns command: flags, one Config, one Run. The logic is in
// drayage.dev/network/dns.
package app
