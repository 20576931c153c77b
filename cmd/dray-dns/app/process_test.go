package app_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	miekg "github.com/miekg/dns"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"drayage.dev/internal/detached"
	"drayage.dev/internal/node"
	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
	"drayage.dev/network/podnet"
)

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

const snapshot = `{"services": [{"metadata": {"namespace": "shop", "name": "web"}, "spec": {"clusterIP": "10.96.0.20"}}],
"endpointSlices": []}`

var _ = Describe("The process", Ordered, func() {
	var (
		ctx    context.Context
		lab    *netlab.Node
		pod    *netlab.Namespace
		server detached.Process
		dir    string
	)

	// resolve asks the cluster's DNS address from a namespace.
	resolve := func(from *netlab.Namespace) func() (string, error) {
		return func() (string, error) {
			conn, err := from.Dial("udp", "10.96.0.10:53", 5*time.Second)
			if err != nil {
				return "", err
			}
			defer conn.Close()
			request := new(miekg.Msg)
			request.SetQuestion("web.shop.svc.cluster.local.", miekg.TypeA)
			reply, _, err := (&miekg.Client{Timeout: 5 * time.Second}).ExchangeWithConn(request, &miekg.Conn{Conn: conn})
			if err != nil || len(reply.Answer) != 1 {
				return "", err
			}
			return reply.Answer[0].(*miekg.A).A.String(), nil
		}
	}
	// keep is an agent's life: it keeps the process until it is stopped, and leaves it behind.
	keep := func() (stop func()) {
		run, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		// The process is forked on the thread that is in the node's namespace.
		go func() { done <- lab.Do(func() error { return server.Keep(run) }) }()
		return func() {
			GinkgoHelper()
			cancel()
			Eventually(done).Should(Receive(BeNil()))
		}
	}
	holder := func() int {
		pid, _ := server.Find()
		return pid
	}

	BeforeAll(func() {
		ctx = context.Background()
		dir = GinkgoT().TempDir()
		binary := filepath.Join(dir, "dray-dns")
		output, err := exec.Command("go", "build", "-o", binary, "drayage.dev/cmd/dray-dns").CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(output))
		lab, err = netlab.NewNode()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(lab.Delete()).To(Succeed()) })
		pods, err := podnet.New(podnet.Config{
			StateDir: filepath.Join(dir, "network"), NetNS: lab.Path, NodeAddresses: []netip.Addr{lab.Address},
			PodRanges:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(pods.Close)
		Expect(pods.SetPodCIDRs(ctx, []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")})).To(Succeed())
		pod, err = netlab.New()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(pod.Delete)
		_, err = pods.Add(ctx, node.PodRef{SandboxID: "one", NetNS: pod.Path})
		Expect(err).NotTo(HaveOccurred())

		Expect(os.WriteFile(filepath.Join(dir, "kubeconfig"), []byte(kubeconfig), 0o600)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(dir, "dns.json"), []byte(snapshot), 0o600)).To(Succeed())
		server = detached.Process{
			Name: "dns",
			Command: []string{
				binary, "--kubeconfig", filepath.Join(dir, "kubeconfig"), "--snapshot-file", filepath.Join(dir, "dns.json"),
				"--resolv-conf", "/dev/null", "--lock-file", filepath.Join(dir, "lock"),
			},
			LockFile: filepath.Join(dir, "lock"), LogFile: filepath.Join(dir, "log"),
		}
		DeferCleanup(func() { Expect(server.Stop(ctx)).To(Succeed()) })
	})

	It("answers pods and the node on the cluster's address, while the API is away", func() {
		stop := keep()
		for _, from := range []*netlab.Namespace{pod, lab.Namespace} {
			Eventually(resolve(from)).Should(Equal("10.96.0.20"))
		}
		By("surviving the end of its keeper")
		first := holder()
		stop()
		Eventually(resolve(pod)).Should(Equal("10.96.0.20"))
		stop = keep()
		Consistently(holder, "1500ms").Should(Equal(first))

		By("being started again after a kill")
		Expect(unix.Kill(first, unix.SIGKILL)).To(Succeed())
		Eventually(holder).ShouldNot(BeElementOf(0, first))
		Eventually(resolve(pod)).Should(Equal("10.96.0.20"))
		stop()

		By("being replaced when its arguments change")
		second := holder()
		server.Command = append(server.Command, "--domain", "other.local")
		stop = keep()
		Eventually(holder).ShouldNot(BeElementOf(0, second))
		stop()
		Expect(server.Stop(ctx)).To(Succeed())
		Expect(holder()).To(BeZero())

		By("leaving nothing behind a cleanup")
		Expect(podnet.Cleanup(ctx, filepath.Join(dir, "network"), lab.Path)).To(Succeed())
		_, err := lab.Dial("udp", "10.96.0.10:53", time.Second)
		if err == nil {
			_, err = resolve(lab.Namespace)()
		}
		Expect(err).To(HaveOccurred())
		Expect(kernel.Cleanup(lab.Path)).To(Succeed())
	})
})
