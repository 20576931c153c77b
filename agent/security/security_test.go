package security_test

import (
	"context"
	"math"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/kubelet/sysctl"
	"k8s.io/utils/ptr"

	"drayage.dev/agent/security"
)

func podWith(podContext *corev1.PodSecurityContext, containerContext *corev1.SecurityContext) *corev1.Pod {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		SecurityContext: podContext,
		Containers:      []corev1.Container{{Name: "app", SecurityContext: containerContext}},
	}}
	pod.Name, pod.Namespace, pod.UID = "web", "shop", "u1"
	return pod
}

func contextOf(pod *corev1.Pod, user security.ImageUser) *runtimeapi.LinuxContainerSecurityContext {
	GinkgoHelper()
	result, err := security.Container(pod, &pod.Spec.Containers[0], user, "/profiles")
	Expect(err).NotTo(HaveOccurred())
	return result
}

var root = security.ImageUser{UID: ptr.To[int64](0)}

var _ = Describe("Container", func() {
	It("runs an image as its own user, unconfined and with the usual masks, when nothing is asked", func() {
		got := contextOf(podWith(nil, nil), security.ImageUser{Name: "www"})
		Expect(got.RunAsUser).To(BeNil())
		Expect(got.RunAsUsername).To(Equal("www"))
		Expect(got.Seccomp.ProfileType).To(Equal(runtimeapi.SecurityProfile_Unconfined))
		Expect(got.MaskedPaths).To(ContainElement("/proc/kcore"))
		Expect(got.ReadonlyPaths).To(ContainElement("/proc/sys"))
		Expect(got.NoNewPrivs).To(BeFalse())
		Expect(got.NamespaceOptions.Pid).To(Equal(runtimeapi.NamespaceMode_CONTAINER))
	})

	It("lets the container's fields win over the pod's", func() {
		got := contextOf(podWith(
			&corev1.PodSecurityContext{
				RunAsUser: ptr.To[int64](1000), RunAsGroup: ptr.To[int64](3000), FSGroup: ptr.To[int64](2000),
				SupplementalGroups: []int64{4000}, SupplementalGroupsPolicy: ptr.To(corev1.SupplementalGroupsPolicyStrict),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			&corev1.SecurityContext{
				RunAsUser: ptr.To[int64](1001), ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
			}), root)
		Expect(got.RunAsUser.Value).To(BeEquivalentTo(1001))
		Expect(got.RunAsGroup.Value).To(BeEquivalentTo(3000))
		Expect(got.SupplementalGroups).To(Equal([]int64{2000, 4000}))
		Expect(got.SupplementalGroupsPolicy).To(Equal(runtimeapi.SupplementalGroupsPolicy_Strict))
		Expect(got.ReadonlyRootfs).To(BeTrue())
		Expect(got.NoNewPrivs).To(BeTrue())
		Expect(got.Capabilities.DropCapabilities).To(Equal([]string{"ALL"}))
		Expect(got.Capabilities.AddCapabilities).To(Equal([]string{"NET_BIND_SERVICE"}))
		Expect(got.Seccomp.ProfileType).To(Equal(runtimeapi.SecurityProfile_RuntimeDefault))
	})

	It("finds Localhost profiles under the root, and wants their name", func() {
		profile := &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("a/b.json")}
		pod := podWith(nil, &corev1.SecurityContext{SeccompProfile: profile})
		Expect(contextOf(pod, root).Seccomp.LocalhostRef).To(Equal("/profiles/a/b.json"))
		profile.LocalhostProfile = nil
		_, err := security.Container(pod, &pod.Spec.Containers[0], root, "/profiles")
		Expect(err).To(MatchError(ContainSubstring("localhostProfile must be set")))
	})

	It("unmasks /proc when asked", func() {
		got := contextOf(podWith(nil, &corev1.SecurityContext{ProcMount: ptr.To(corev1.UnmaskedProcMount)}), root)
		Expect(got.MaskedPaths).To(BeEmpty())
		Expect(got.ReadonlyPaths).To(BeEmpty())
	})
})

var _ = Describe("Sandbox", func() {
	It("shares what the pod shares and is privileged when a container is", func() {
		pod := podWith(nil, &corev1.SecurityContext{Privileged: ptr.To(true)})
		pod.Spec.HostNetwork, pod.Spec.HostIPC, pod.Spec.ShareProcessNamespace = true, true, ptr.To(true)
		got, err := security.Sandbox(pod)
		Expect(err).NotTo(HaveOccurred())
		Expect(got.Privileged).To(BeTrue())
		Expect(got.NamespaceOptions).To(Equal(&runtimeapi.NamespaceOption{
			Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_POD,
		}))
		pod.Spec.HostPID = true
		got, _ = security.Sandbox(pod)
		Expect(got.NamespaceOptions.Pid).To(Equal(runtimeapi.NamespaceMode_NODE))
	})
})

var _ = Describe("VerifyNonRoot", func() {
	nonRoot := &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}
	verify := func(pod *corev1.Pod, user security.ImageUser) error {
		return security.VerifyNonRoot(pod, &pod.Spec.Containers[0], user)
	}

	It("says what breaks the policy, in kubelet's words", func() {
		Expect(verify(podWith(nil, nil), root)).To(Succeed())
		Expect(verify(podWith(nonRoot, nil), security.ImageUser{UID: ptr.To[int64](7)})).To(Succeed())
		Expect(verify(podWith(nonRoot, &corev1.SecurityContext{RunAsUser: ptr.To[int64](7)}), root)).To(Succeed())
		Expect(verify(podWith(nonRoot, nil), root)).To(MatchError(
			`container has runAsNonRoot and image will run as root (pod: "web_shop(u1)", container: app)`))
		Expect(verify(podWith(nonRoot, nil), security.ImageUser{})).To(MatchError(ContainSubstring("image will run as root")))
		Expect(verify(podWith(nonRoot, nil), security.ImageUser{Name: "www"})).To(MatchError(
			`container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: "web_shop(u1)", container: app)`))
		Expect(verify(podWith(nonRoot, &corev1.SecurityContext{RunAsUser: ptr.To[int64](0)}), root)).To(MatchError(
			`container's runAsUser breaks non-root policy (pod: "web_shop(u1)", container: app)`))
		Expect(verify(podWith(nonRoot, nil), security.ImageUser{UID: ptr.To[int64](math.MaxInt32 + 1)})).To(MatchError(
			ContainSubstring("image has an invalid user id (2147483648)")))
	})

	It("knows the image's user", func() {
		Expect(*security.UserOf(nil).UID).To(BeZero())
		Expect(*security.UserOf(&runtimeapi.Image{}).UID).To(BeZero())
		Expect(security.UserOf(&runtimeapi.Image{Username: "www"}).Name).To(Equal("www"))
		Expect(*security.UserOf(&runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 5}}).UID).To(BeEquivalentTo(5))
	})
})

var _ = Describe("Sysctls, against upstream's admission", func() {
	It("admits and refuses what upstream does, in its words", func() {
		allowlist, err := sysctl.NewAllowlist(sysctl.SafeSysctlAllowlist(context.Background()))
		Expect(err).NotTo(HaveOccurred())
		names := append(sysctl.SafeSysctlAllowlist(context.Background()),
			"kernel.msgmax", "net.core.somaxconn", "kernel/shm_rmid_forced", "vm.swappiness", "net/ipv4/tcp_syncookies")
		for _, name := range names {
			for _, host := range []bool{false, true} {
				pod := podWith(&corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name, Value: "1"}}}, nil)
				pod.Spec.HostNetwork, pod.Spec.HostIPC = host, host
				upstream := allowlist.Admit(&lifecycle.PodAdmitAttributes{Pod: pod})
				values, err := security.Sysctls(pod)
				if upstream.Admit {
					Expect(err).NotTo(HaveOccurred(), name)
					Expect(values).To(HaveKeyWithValue(name, "1"))
				} else {
					Expect(err).To(MatchError(upstream.Message), name)
					Expect(upstream.Reason).To(Equal(security.SysctlForbidden))
				}
			}
		}
	})
})
