package volumes

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const hostsPath = "/etc/hosts"

// writeHosts makes the pod's /etc/hosts. Containers that run have the file mounted, so it is written in
// place, and only when it would change.
func writeHosts(file string, pod *corev1.Pod, options ContainerOptions) error {
	var content bytes.Buffer
	if pod.Spec.HostNetwork {
		node, err := os.ReadFile(hostsPath)
		if err != nil {
			return fmt.Errorf("reading the node's hosts file: %w", err)
		}
		content.WriteString("# Hosts of the node, and what the pod adds to them.\n")
		content.Write(node)
	} else {
		content.WriteString("# Hosts of the pod. Written by its node.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		names := options.Hostname
		if options.Domain != "" {
			names = options.Hostname + "." + options.Domain + "\t" + options.Hostname
		}
		for _, address := range options.PodIPs {
			fmt.Fprintf(&content, "%s\t%s\n", address, names)
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		content.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&content, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, content.Bytes()) {
		return nil
	}
	if err := os.WriteFile(file, content.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the pod's hosts file: %w", err)
	}
	return os.Chmod(file, 0o644)
}
