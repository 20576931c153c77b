// Package streaming is the node's HTTPS server for the API server: logs, exec, attach and port-forward of
// this node's pods, under kubelet's paths, so that upstream's API machinery finds its way:
//
//	GET      /containerLogs/{namespace}/{pod}/{container}?follow=&previous=&tailLines=&sinceSeconds=&sinceTime=&timestamps=&limitBytes=&stream=
//	GET|POST /exec/{namespace}/{pod}[/{uid}]/{container}?command=&input=&output=&error=&tty=
//	GET|POST /attach/{namespace}/{pod}[/{uid}]/{container}?input=&output=&error=&tty=
//	GET|POST /portForward/{namespace}/{pod}[/{uid}]
//	GET      /healthz
//
// One client exists: the API server, by a certificate of the cluster's authority in its name. It has
// authenticated and authorised the user; here nobody else is known. Logs are read from the files that
// the container runtime writes; the others are handed to the runtime's own streaming server, which
// listens on loopback of the agent's network namespace.
//
// cmd/dray-agent/app runs it. It never changes a pod, and keeps no state between requests.
package streaming
