package admission_test

import "slices"

// implemented are the fields that Drayage implements, and fields that only carry information. "..."
// stands for everything below. Whoever adds a field here has written what it does.
var implemented = map[string][]string{
	"Pod": slices.Concat([]string{
		"kind", "apiVersion", "metadata...", "status...",
		"spec.restartPolicy",
		"spec.terminationGracePeriodSeconds",
		"spec.activeDeadlineSeconds",
		"spec.dnsPolicy",
		"spec.dnsConfig...",
		"spec.nodeSelector",
		"spec.serviceAccountName",
		"spec.serviceAccount",
		"spec.automountServiceAccountToken",
		"spec.nodeName",
		"spec.hostNetwork",
		"spec.hostPID",
		"spec.hostIPC",
		"spec.hostUsers", // only the host's users
		"spec.os.name",   // only linux
		"spec.shareProcessNamespace",
		"spec.imagePullSecrets...",
		"spec.hostname",
		"spec.subdomain",
		"spec.setHostnameAsFQDN",
		"spec.affinity...",
		"spec.schedulerName",
		"spec.tolerations...",
		"spec.hostAliases...",
		"spec.priorityClassName",
		"spec.priority",
		"spec.preemptionPolicy",
		"spec.readinessGates...",
		"spec.enableServiceLinks",
		"spec.topologySpreadConstraints...",
		"spec.schedulingGates...",

		"spec.securityContext.runAsUser",
		"spec.securityContext.runAsGroup",
		"spec.securityContext.runAsNonRoot",
		"spec.securityContext.supplementalGroups",
		"spec.securityContext.supplementalGroupsPolicy",
		"spec.securityContext.fsGroup",
		"spec.securityContext.fsGroupChangePolicy",
		"spec.securityContext.sysctls...",
		"spec.securityContext.seccompProfile...",
		"spec.securityContext.appArmorProfile...",

		"spec.volumes[*].name",
		"spec.volumes[*].hostPath...",
		"spec.volumes[*].emptyDir...",
		"spec.volumes[*].secret...",
		"spec.volumes[*].configMap...",
		"spec.volumes[*].downwardAPI...",
		"spec.volumes[*].projected.defaultMode",
		"spec.volumes[*].projected.sources[*].secret...",
		"spec.volumes[*].projected.sources[*].configMap...",
		"spec.volumes[*].projected.sources[*].downwardAPI...",
		"spec.volumes[*].projected.sources[*].serviceAccountToken...",
	},
		implementedOfContainer("spec.containers[*]"),
		implementedOfContainer("spec.initContainers[*]"),
		[]string{"spec.initContainers[*].restartPolicy"}, // Always: a sidecar
	),
	"Service": {
		"kind", "apiVersion", "metadata...", "status...",
		"spec.ports[*].name",
		"spec.ports[*].protocol",
		"spec.ports[*].appProtocol",
		"spec.ports[*].port",
		"spec.ports[*].targetPort...",
		"spec.ports[*].nodePort",
		"spec.selector",
		"spec.clusterIP",
		"spec.clusterIPs[*]",
		"spec.type",
		"spec.sessionAffinity",
		"spec.sessionAffinityConfig...",
		"spec.externalName",
		"spec.externalTrafficPolicy",
		"spec.internalTrafficPolicy",
		"spec.externalIPs[*]",
		"spec.publishNotReadyAddresses",
		"spec.ipFamilies[*]",
		"spec.ipFamilyPolicy",
		"spec.allocateLoadBalancerNodePorts",
	},
	"Node": {
		"kind", "apiVersion", "metadata...", "status...",
		"spec.podCIDR",
		"spec.podCIDRs[*]",
		"spec.providerID",
		"spec.unschedulable",
		"spec.taints...",
	},
	"EndpointSlice": {
		"kind", "apiVersion", "metadata...",
		"addressType",
		"endpoints[*].addresses[*]",
		"endpoints[*].conditions...",
		"endpoints[*].hostname",
		"endpoints[*].targetRef...",
		"endpoints[*].nodeName",
		"endpoints[*].zone",
		"ports...",
	},
}

func implementedOfContainer(path string) []string {
	var out []string
	for _, name := range []string{
		"name", "image", "command[*]", "args[*]", "workingDir", "imagePullPolicy",
		"ports[*].name", "ports[*].containerPort", "ports[*].protocol",
		"ports[*].hostPort", "ports[*].hostIP", // in the host's network
		"envFrom...",
		"env[*].name", "env[*].value",
		"env[*].valueFrom.fieldRef...", "env[*].valueFrom.resourceFieldRef...",
		"env[*].valueFrom.configMapKeyRef...", "env[*].valueFrom.secretKeyRef...", "env[*].valueFrom.fileKeyRef...",
		"resources.limits", "resources.requests", "resizePolicy...",
		"volumeMounts...",
		"livenessProbe...", "readinessProbe...", "startupProbe...",
		"lifecycle.postStart.exec...", "lifecycle.postStart.httpGet...", "lifecycle.postStart.sleep...",
		"lifecycle.preStop.exec...", "lifecycle.preStop.httpGet...", "lifecycle.preStop.sleep...",
		"terminationMessagePath", "terminationMessagePolicy",
		"stdin", "stdinOnce", "tty",
		"securityContext.capabilities...", "securityContext.privileged",
		"securityContext.runAsUser", "securityContext.runAsGroup", "securityContext.runAsNonRoot",
		"securityContext.readOnlyRootFilesystem", "securityContext.allowPrivilegeEscalation",
		"securityContext.procMount", "securityContext.seccompProfile...", "securityContext.appArmorProfile...",
	} {
		out = append(out, path+"."+name)
	}
	return out
}
