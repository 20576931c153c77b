package admission_test

import (
	"math/rand/v2"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// podChanges are things that people write into pods, right and wrong. A random pod has a few of them.
var podChanges = []func(r *rand.Rand, pod *corev1.Pod){
	func(r *rand.Rand, p *corev1.Pod) { p.Name = pick(r, "web", "Web", "web.1", "", "-") },
	func(r *rand.Rand, p *corev1.Pod) { p.Name, p.GenerateName = "", pick(r, "web-", "Web-", "") },
	func(r *rand.Rand, p *corev1.Pod) {
		p.Labels[pick(r, "tier", "-bad-", "a/b/c")] = pick(r, "x", "not valid", "")
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.ServiceAccountName = pick(r, "default", "tokenless", "puller", "nobody")
	},
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.DeprecatedServiceAccount = pick(r, "puller", "tokenless") },
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr.To(r.IntN(2) == 0) },
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: pick(r, "mine", "")}}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.PriorityClassName = pick(r, "high", "patient", "unknown", "system-node-critical")
	},
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.Priority = ptr.To(pick[int32](r, 0, 500, 1000)) },
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.PreemptionPolicy = ptr.To(pick(r, corev1.PreemptNever, corev1.PreemptLowerPriority))
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{
			Key:      pick(r, "", corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, "gpu"),
			Operator: pick(r, corev1.TolerationOpExists, corev1.TolerationOpEqual, ""),
			Effect:   pick(r, corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule, ""),
		})
	},
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.HostNetwork = true },
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.RestartPolicy = pick(r, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure, "Sometimes")
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.DNSPolicy = pick(r, corev1.DNSNone, corev1.DNSDefault, "Other")
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{pick(r, "10.0.0.1", "x")}, Searches: []string{"a.b"}}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = ptr.To(pick[int64](r, 0, 5, -1))
	},
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To(pick[int64](r, 10, 0, -1)) },
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.NodeName = pick(r, "n1", "Not A Node") },
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: pick(r, "example.com/wait", "", "a b")}}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.Hostname, p.Spec.Subdomain = pick(r, "h", "H"), pick(r, "s", "")
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: pick[int32](r, 1, 0), TopologyKey: pick(r, "zone", ""),
			WhenUnsatisfiable: pick(r, corev1.DoNotSchedule, corev1.ScheduleAnyway, "Never"),
			LabelSelector:     &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			MatchLabelKeys:    pick(r, nil, []string{"tier"}, []string{"app"}),
		}}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		term := corev1.PodAffinityTerm{
			TopologyKey:    pick(r, "zone", ""),
			LabelSelector:  pick(r, nil, &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}),
			MatchLabelKeys: pick(r, nil, []string{"app"}, []string{"tier"}),
		}
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term},
		}}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.NodeSelector = map[string]string{pick(r, "disk", "a b"): "ssd"}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{
			RunAsUser: ptr.To(pick[int64](r, 0, 1000, -1)), FSGroup: ptr.To[int64](2000),
			SeccompProfile: &corev1.SeccompProfile{Type: pick(r, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeLocalhost, "x")},
			Sysctls:        pick(r, nil, []corev1.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"}}, []corev1.Sysctl{{Name: "a b"}}),
		}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Annotations = map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "web": pick(r, "runtime/default", "unconfined", "x")}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, randomVolume(r, "v"+strconv.Itoa(r.IntN(3))))
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, randomVolume(r, "kube-api-access-mine"))
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: pick(r, "web", "two", "Two", ""), Image: pick(r, "b", "", " b")})
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{
			Name: pick(r, "init", "web"), Image: "init:latest",
			RestartPolicy: pick(r, nil, ptr.To(corev1.ContainerRestartPolicyAlways), ptr.To(corev1.ContainerRestartPolicyNever)),
		})
	},
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.Containers = nil },
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To(pick(r, "kata", "A B")) },
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.HostUsers = ptr.To(false) },
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.OS = &corev1.PodOS{Name: pick(r, corev1.Linux, corev1.Windows, "plan9")}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}
	},
	func(r *rand.Rand, p *corev1.Pod) { p.Spec.EnableServiceLinks = ptr.To(false) },
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: corev1.PodConditionType(pick(r, "example.com/ready", "a b"))}}
	},
	func(r *rand.Rand, p *corev1.Pod) {
		p.Spec.HostAliases = []corev1.HostAlias{{IP: pick(r, "10.0.0.1", "x"), Hostnames: []string{pick(r, "a.b", "A B")}}}
	},
}

// containerChanges are the same for the first container.
var containerChanges = []func(r *rand.Rand, c *corev1.Container){
	func(r *rand.Rand, c *corev1.Container) {
		c.Image = pick(r, "web", "web:latest", "web:1", "web@sha256:x", "")
	},
	func(r *rand.Rand, c *corev1.Container) {
		c.ImagePullPolicy = pick(r, corev1.PullNever, corev1.PullAlways, "Maybe")
	},
	func(r *rand.Rand, c *corev1.Container) {
		c.Ports = append(c.Ports, corev1.ContainerPort{
			Name: pick(r, "", "http", "Bad Name"), ContainerPort: pick[int32](r, 80, 0, 70000),
			HostPort: pick[int32](r, 0, 80, 8080), Protocol: pick(r, "", corev1.ProtocolUDP, "X"),
		})
	},
	func(r *rand.Rand, c *corev1.Container) {
		c.Resources.Limits = corev1.ResourceList{
			pick(r, corev1.ResourceCPU, corev1.ResourceMemory, "example.com/gpu", "hugepages-2Mi", "a b"): resource.MustParse(pick(r, "1", "500m", "2Gi", "-1")),
		}
	},
	func(r *rand.Rand, c *corev1.Container) {
		c.Resources.Requests = corev1.ResourceList{pick(r, corev1.ResourceCPU, corev1.ResourceMemory): resource.MustParse(pick(r, "2", "100m", "4Gi"))}
	},
	func(r *rand.Rand, c *corev1.Container) {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{
			Name: pick(r, "v0", "v1", "missing"), MountPath: pick(r, "/data", "/other", "/var/run/secrets/kubernetes.io/serviceaccount", ""),
			SubPath: pick(r, "", "a", "../a"),
		})
	},
	func(r *rand.Rand, c *corev1.Container) {
		c.Env = append(c.Env, corev1.EnvVar{Name: pick(r, "A", "", "a=b"), Value: "x"}, corev1.EnvVar{
			Name: "REF", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: pick(r, "metadata.name", "status.podIP", "spec.other")}},
		})
	},
	func(r *rand.Rand, c *corev1.Container) {
		c.Env = append(c.Env, corev1.EnvVar{Name: "KEY", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: pick(r, "c", "")}, Key: pick(r, "k", "", "a b"),
		}}})
	},
	func(r *rand.Rand, c *corev1.Container) { c.ReadinessProbe = randomProbe(r) },
	func(r *rand.Rand, c *corev1.Container) { c.LivenessProbe = randomProbe(r) },
	func(r *rand.Rand, c *corev1.Container) { c.StartupProbe = randomProbe(r) },
	func(r *rand.Rand, c *corev1.Container) {
		c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: pick[int64](r, 1, 100, -1)}}}
	},
	func(r *rand.Rand, c *corev1.Container) {
		c.SecurityContext = &corev1.SecurityContext{
			Privileged: pick(r, nil, ptr.To(true)), AllowPrivilegeEscalation: pick(r, nil, ptr.To(false)),
			RunAsUser: pick(r, nil, ptr.To[int64](-5)), ProcMount: pick(r, nil, ptr.To(corev1.UnmaskedProcMount)),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}
	},
	func(r *rand.Rand, c *corev1.Container) {
		c.TerminationMessagePolicy = pick(r, corev1.TerminationMessageFallbackToLogsOnError, "X")
	},
}

func randomVolume(r *rand.Rand, name string) corev1.Volume {
	return corev1.Volume{Name: pick(r, name, name, name, "Bad"), VolumeSource: pick(r,
		corev1.VolumeSource{},
		corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: pick(r, "", corev1.StorageMediumMemory)}},
		corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: pick(r, "/data", "../x", "")}},
		corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: pick(r, "c", "")}}},
		corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: pick(r, "s", ""), DefaultMode: pick(r, nil, ptr.To[int32](01000))}},
		corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}},
		corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
			ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: pick(r, "t", "")},
		}}}},
		corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{
			Path: pick(r, "labels", "../x"), FieldRef: &corev1.ObjectFieldSelector{FieldPath: pick(r, "metadata.labels", "spec.x")},
		}}}},
	)}
}

func randomProbe(r *rand.Rand) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: pick(r,
			corev1.ProbeHandler{},
			corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: pick(r, intstr.FromInt32(80), intstr.FromString("http"), intstr.FromInt32(0))}},
			corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}},
			corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: pick(r, nil, []string{"true"})}},
			corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: pick[int32](r, 80, 0)}},
		),
		PeriodSeconds:    pick[int32](r, 0, 5, -1),
		SuccessThreshold: pick[int32](r, 0, 1, 2),
	}
}

// randomPod is newPod with up to four changes, so that many are valid and many wrong in one way.
func randomPod(r *rand.Rand) *corev1.Pod {
	pod := newPod()
	changePod(r, pod, r.IntN(5))
	return pod
}

func changePod(r *rand.Rand, pod *corev1.Pod, count int) {
	for range count {
		if len(pod.Spec.Containers) > 0 && r.IntN(3) == 0 {
			pick(r, containerChanges...)(r, &pod.Spec.Containers[0])
		} else {
			pick(r, podChanges...)(r, pod)
		}
	}
}

func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }
