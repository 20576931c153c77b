//go:build cluster

package hosted_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

func specsOfUninstallation() {
	It("is uninstalled clean, keeping the kinds and what is of them", func(ctx SpecContext) {
		Expect(h.run(ctx, "helm", "uninstall", "drayage", "--namespace", namespace, "--timeout", "3m")).Error().NotTo(HaveOccurred())

		for _, kind := range []string{"apiservices", "mutatingwebhookconfigurations", "validatingwebhookconfigurations", "clusterroles", "clusterrolebindings"} {
			out, err := kubectl(ctx, "get", kind, "-o", "name")
			Expect(err).NotTo(HaveOccurred())
			for _, line := range strings.Split(out, "\n") {
				// Those of the kept kinds are the API server's own.
				if strings.Contains(line, "drayage") && !strings.HasPrefix(line, "apiservice.apiregistration.k8s.io/v1.") && !strings.HasSuffix(line, "networking.drayage.dev") {
					Fail("left behind: " + line)
				}
			}
		}
		Expect(pods(ctx, "myapp")).To(HaveLen(3))
		for _, pod := range pods(ctx, "myapp") {
			Expect(pod.Finalizers).To(BeEmpty())
		}
		for _, m := range h.machines {
			node := &dcorev1.Node{}
			Expect(h.api.Get(ctx, client.ObjectKey{Name: m.name}, node)).To(Succeed())
			Expect(node.Status.Conditions).To(ContainElement(And(HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionUnknown))))
		}
		unchanged()

		By("namespaces can be deleted")
		another := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "another"}}
		Expect(h.api.Create(ctx, another)).To(Succeed())
		Expect(h.api.Delete(ctx, another)).To(Succeed())
		Eventually(gone(ctx, another)).Should(BeTrue())
	}, SpecTimeout(5*time.Minute))

	It("goes on with what was kept when it is installed again, by Helm 4", func(ctx SpecContext) {
		h.install(ctx, "helm4")
		Eventually(func(g Gomega) {
			found := running(ctx, "myapp")()
			g.Expect(found).To(HaveLen(3))
			for _, pod := range found {
				g.Expect(h.machine(pod.Spec.NodeName).fetch("http://" + pod.Status.PodIP + ":8080/")()).To(ContainSubstring(pod.Name))
			}
		}).WithTimeout(2 * time.Minute).Should(Succeed())
		Expect(kubectl(ctx, "--namespace", team, "scale", "deployments.apps.drayage.dev", "myapp", "--replicas=4")).Error().NotTo(HaveOccurred())
		Eventually(running(ctx, "myapp")).Should(HaveLen(4))

		before := bundles(ctx)
		Expect(h.run(ctx, "helm4", "upgrade", "drayage", chart, "--namespace", namespace, "--reset-then-reuse-values", "--set", "manager.extraArgs={-v=1}", "--wait", "--timeout", "3m")).
			Error().NotTo(HaveOccurred())
		Expect(bundles(ctx)).To(Equal(before))
	}, SpecTimeout(8*time.Minute))

	It("lets go of nodes, and of a namespace with pods, after an uninstallation whose agents were gone first", func(ctx SpecContext) {
		Expect(kubectl(ctx, "--namespace", namespace, "delete", "daemonset", "drayage-agent")).Error().NotTo(HaveOccurred())
		Eventually(func() int { return len(podsOf(ctx, "agent")) }).Should(BeZero())
		Expect(h.run(ctx, "helm4", "uninstall", "drayage", "--namespace", namespace, "--timeout", "3m")).Error().NotTo(HaveOccurred())
		of := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team}}
		Expect(h.api.Delete(ctx, of)).To(Succeed())
		Eventually(gone(ctx, of)).Should(BeTrue(), func() string { out, _ := kubectl(ctx, "get", "ns", team, "-o", "yaml"); return out })
		list := &dcorev1.PodList{}
		Expect(h.api.List(ctx, list)).To(Succeed())
		Expect(list.Items).To(BeEmpty())
		unchanged()
	}, SpecTimeout(5*time.Minute))
}

// unchanged expects that every machine is as it was before Drayage came.
func unchanged() {
	GinkgoHelper()
	for _, m := range h.machines {
		Eventually(func() (changes []string) {
			now := m.snapshot()
			for _, of := range []struct {
				sign     string
				from, to map[string][]string
			}{{"-", m.before, now}, {"+", now, m.before}} {
				for what, things := range of.from {
					for _, thing := range things {
						if !slices.Contains(of.to[what], thing) {
							changes = append(changes, of.sign+" "+what+": "+thing)
						}
					}
				}
			}
			slices.Sort(changes)
			return changes
		}).Should(BeEmpty(), m.name)
	}
}

// snapshot is what a guest could leave behind on a machine, by its kind.
func (m *machine) snapshot() map[string][]string {
	GinkgoHelper()
	found := map[string][]string{}
	add := func(what, thing string) { found[what] = append(found[what], thing) }
	for line := range strings.Lines(readFile(filepath.Join("/proc", strconv.Itoa(m.init), "mountinfo"))) {
		fields := strings.Fields(line)
		add("mounts", fields[4])
	}
	for what, argv := range map[string][]string{
		"links": {"ip", "-brief", "link"}, "addresses": {"ip", "-brief", "address"}, "routes": {"ip", "route", "show", "table", "all"},
		"IPv6 routes": {"ip", "-6", "route", "show", "table", "all"}, "rules": {"ip", "rule"}, "tables": {"nft", "list", "tables"},
		"sockets": {"ss", "-Hlntu"}, "local sockets": {"ss", "-Hlx"},
		"parameters": {"sysctl", "-a", "-r", `^net\.(ipv4\.(ip_forward|conf\.(all|default|eth0|lo)\.)|ipv6\.conf\.(all|default)\.forwarding|netfilter\.nf_conntrack_tcp)`},
	} {
		output, err := m.command(argv...).Output()
		Expect(err).NotTo(HaveOccurred(), "%v", argv)
		for line := range strings.Lines(string(output)) {
			fields := strings.Fields(line)
			switch what {
			case "sockets":
				fields = []string{fields[0], fields[4]}
			case "local sockets":
				// The kubelet's have other names after a restart.
				if strings.HasPrefix(fields[4], "/var/lib/kubelet/") {
					continue
				}
				fields = []string{fields[4]}
			}
			add(what, strings.Join(fields, " "))
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil
		}
		// The kubelet's two classes come with the first pod of a class, and stay.
		if class := filepath.Base(path); strings.Contains(path, m.tree.Root()+"/") && class != "burstable" && class != "besteffort" {
			add("cgroups", path)
		}
		return nil
	})
	for _, pid := range m.tree.Processes(m.tree.Root()) {
		// kube-proxy and the runtimes start these for a moment.
		if name := nameOf(pid); !slices.Contains([]string{"", "nft", "runc", "containerd-shim"}, name) {
			add("processes", name)
		}
	}
	for _, dir := range []string{"/var/lib", "/run", "/var/log/pods", "/var/log/containers"} {
		entries, err := os.ReadDir(m.path(dir))
		Expect(err).NotTo(HaveOccurred())
		for _, entry := range entries {
			add("files", filepath.Join(dir, entry.Name()))
		}
	}
	for what := range found {
		slices.Sort(found[what])
	}
	return found
}
