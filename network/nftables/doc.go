// Package nftables applies a node's service spec to the kernel with nftables, by netlink. It owns the
// table "drayage-services" (IPv4 now) and the conntrack entries of UDP services whose endpoints went, and of
// TCP connections that such endpoints have not answered. Package proxy is its caller; it knows no API object.
//
// There is no chain per service. All frontends live in a few flat maps, so that one change costs a few
// set elements however many services there are:
//
//	svc      address . protocol . port           : shape (number of slots, affinity, masquerade)
//	shapes   shape                               : jump to the shape's chain
//	ep       address . protocol . port . slot    : endpoint address . endpoint port
//	hairpin  pod . pod, for pods of this node behind any frontend
//
// for frontends whose endpoints get different shares of the connections
//
//	groups   address . protocol . port . one of a thousand : number of the group
//	sizes    address . protocol . port . group   : number of the group and of its slots
//	members  number of a group and of its slots  : jump to their chain, which chooses a slot
//
// for those that serve some clients only
//
//	restricted address . protocol . port
//	sources    address . protocol . port . range of clients
//
// and for frontends with ClientIP affinity
//
//	affinity client . address . protocol . port  : name of the endpoint that the client was sent to
//	names    address . protocol . port . slot    : name of the endpoint
//	ep       address . protocol . port . name    : endpoint address . endpoint port
//
// All but hairpin, members, restricted and sources are there twice: once more, with names that end in -in,
// for frontends that only pods of this node and its own processes use, and that they find first.
//
// No big map holds verdicts: those would cost milliseconds on every commit.
package nftables
