package admission

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// The lists of fields that are refused. They only shrink: whoever implements a field takes its entry out
// here and enters it into the test's list of implemented fields.

var podFields = slices.Concat(
	[]Field{
		{Path: "spec.ephemeralContainers"},
		{Path: "spec.runtimeClassName"},
		{Path: "spec.overhead"},
		{Path: "spec.os.name", Except: []string{string(corev1.Linux)}},
		{Path: "spec.hostUsers", Values: []string{"false"}},
		{Path: "spec.resourceClaims"},
		{Path: "spec.resources"},
		{Path: "spec.hostnameOverride"},
		{Path: "spec.schedulingGroup"},
		{Path: "spec.securityContext.seLinuxOptions"},
		{Path: "spec.securityContext.seLinuxChangePolicy"},
		{Path: "spec.securityContext.windowsOptions"},
		{Path: "spec.securityContext.seccompProfile.type", Values: []string{string(corev1.SeccompProfileTypeLocalhost)}},
		{Path: "spec.securityContext.appArmorProfile.type", Values: []string{string(corev1.AppArmorProfileTypeLocalhost)}},
	},
	volumeFields,
	containerFields("spec.containers[*]",
		Field{Path: "spec.containers[*].restartPolicy"},
	),
	containerFields("spec.initContainers[*]",
		Field{Path: "spec.initContainers[*].restartPolicy", Except: []string{string(corev1.ContainerRestartPolicyAlways)}},
	),
)

var volumeFields = []Field{
	{Path: "spec.volumes[*].emptyDir.medium", Except: []string{string(corev1.StorageMediumMemory)}},
	{
		Path: "spec.volumes[*].emptyDir.sizeLimit", Unless: "the medium is Memory",
		unless: func(_ *corev1.PodSpec, parent any) bool {
			return parent.(corev1.EmptyDirVolumeSource).Medium == corev1.StorageMediumMemory
		},
	},
	{Path: "spec.volumes[*].persistentVolumeClaim"},
	{Path: "spec.volumes[*].ephemeral"},
	{Path: "spec.volumes[*].csi"},
	{Path: "spec.volumes[*].image"},
	{Path: "spec.volumes[*].nfs"},
	{Path: "spec.volumes[*].iscsi"},
	{Path: "spec.volumes[*].fc"},
	{Path: "spec.volumes[*].gitRepo"},
	{Path: "spec.volumes[*].flexVolume"},
	{Path: "spec.volumes[*].gcePersistentDisk"},
	{Path: "spec.volumes[*].awsElasticBlockStore"},
	{Path: "spec.volumes[*].azureFile"},
	{Path: "spec.volumes[*].azureDisk"},
	{Path: "spec.volumes[*].vsphereVolume"},
	{Path: "spec.volumes[*].cinder"},
	{Path: "spec.volumes[*].cephfs"},
	{Path: "spec.volumes[*].rbd"},
	{Path: "spec.volumes[*].glusterfs"},
	{Path: "spec.volumes[*].flocker"},
	{Path: "spec.volumes[*].quobyte"},
	{Path: "spec.volumes[*].photonPersistentDisk"},
	{Path: "spec.volumes[*].portworxVolume"},
	{Path: "spec.volumes[*].scaleIO"},
	{Path: "spec.volumes[*].storageos"},
	{Path: "spec.volumes[*].projected.sources[*].clusterTrustBundle"},
	{Path: "spec.volumes[*].projected.sources[*].podCertificate"},
}

// containerFields are the refused fields of the containers at path, and more.
func containerFields(path string, more ...Field) []Field {
	hostNetwork := func(pod *corev1.PodSpec, _ any) bool { return pod.HostNetwork }
	return append([]Field{
		// Packets from the node's loopback address cannot be led to a pod without opening it to the network.
		{Path: path + ".ports[*].hostIP", Values: []string{"127.0.0.1", "::1"}, Unless: "spec.hostNetwork is true", unless: hostNetwork},
		{Path: path + ".ports[*].protocol", Values: []string{string(corev1.ProtocolSCTP)}},
		{Path: path + ".resources.claims"},
		{Path: path + ".resources.limits[ephemeral-storage]"},
		{Path: path + ".restartPolicyRules"},
		{Path: path + ".volumeDevices"},
		{Path: path + ".lifecycle.stopSignal"},
		{Path: path + ".lifecycle.postStart.tcpSocket"},
		{Path: path + ".lifecycle.preStop.tcpSocket"},
		{Path: path + ".securityContext.seLinuxOptions"},
		{Path: path + ".securityContext.windowsOptions"},
		{Path: path + ".securityContext.procMount", Except: []string{string(corev1.DefaultProcMount)}},
		{Path: path + ".securityContext.seccompProfile.type", Values: []string{string(corev1.SeccompProfileTypeLocalhost)}},
		{Path: path + ".securityContext.appArmorProfile.type", Values: []string{string(corev1.AppArmorProfileTypeLocalhost)}},
	}, more...)
}

var serviceFields = []Field{
	{Path: "metadata.annotations[" + corev1.AnnotationLoadBalancerSourceRangesKey + "]"},
	{Path: "metadata.annotations[" + corev1.AnnotationTopologyMode + "]", Except: []string{"Disabled", "disabled"}},
	{Path: "spec.loadBalancerIP"},
	{Path: "spec.trafficDistribution"},
	{Path: "spec.ipFamilies[*]", Values: []string{string(corev1.IPv6Protocol)}},
	{Path: "spec.ports[*].protocol", Values: []string{string(corev1.ProtocolSCTP)}},
}

var nodeFields = []Field{
	{Path: "spec.configSource"},
	{Path: "spec.externalID"},
}

var endpointSliceFields = []Field{
	{Path: "addressType", Values: []string{"IPv6"}},
	{Path: "endpoints[*].hints"},
	{Path: "endpoints[*].deprecatedTopology"},
	{Path: "ports[*].protocol", Values: []string{string(corev1.ProtocolSCTP)}},
}
