// Package nftables applies a node's service spec to the kernel with nftables, by netlink. It owns the
// table "drayage-services" (IPv4 now) and the conntrack entries of UDP
// services whose endpoints went. Package proxy is its caller; it knows no API object.
//
// There is no chain per service. All frontends live in a few flat maps, so that one change costs a few
// set elements however many services there are:
//
//	svc      address . protocol . port           : shape (number of slots, affinity, masquerade)
//	shapes   shape                               : jump to the shape's chain
//	ep       address . protocol . port . slot    : endpoint address . endpoint port
//	hairpin  pod . pod, for pods of this node behind any frontend
//
// and for frontends with ClientIP affinity
//
//	affinity client . address . protocol . port  : name of the endpoint that the client was sent to
//	names    address . protocol . port . slot    : name of the endpoint
//	ep       address . protocol . port . name    : endpoint address . endpoint port
//
// No big map holds verdicts: those would cost milliseconds on every commit.
package nftables
