package security

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/node/util/sysctl"
)

// SysctlForbidden is the reason of a pod that fails because of its sysctls.
const SysctlForbidden = "SysctlForbidden"

// safe are the sysctls that concern nobody but the pod itself: upstream's list in pkg/kubelet/sysctl, less
// its checks for kernels older than 5.
var safe = sets.New(
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem",
)

// Sysctls returns the kernel parameters that the pod sets. It refuses those that upstream does not count
// as safe, and those that need a namespace which the pod shares with the host; the pod then fails with
// reason SysctlForbidden.
func Sysctls(pod *corev1.Pod) (map[string]string, error) {
	values := map[string]string{}
	if pod.Spec.SecurityContext == nil {
		return values, nil
	}
	for _, wanted := range pod.Spec.SecurityContext.Sysctls {
		name := sysctl.NormalizeName(wanted.Name)
		if !safe.Has(name) {
			return nil, fmt.Errorf("forbidden sysctl: %q not allowlisted", name)
		}
		namespace, _, _ := sysctl.GetNamespace(name)
		if namespace == sysctl.IPCNamespace && pod.Spec.HostIPC || namespace == sysctl.NetNamespace && pod.Spec.HostNetwork {
			return nil, fmt.Errorf("forbidden sysctl: %q not allowed with host %s enabled", name, namespace)
		}
		values[wanted.Name] = wanted.Value
	}
	return values, nil
}
