package cniserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/internal/node"
	"drayage.dev/network/cni"
	"drayage.dev/network/cniserver"
)

var errSoon = errors.New("not yet")

// scripted is a pod network that remembers who is wired.
type scripted struct {
	mu    sync.Mutex
	wired map[string]node.PodRef
	fail  error
}

func (s *scripted) Add(_ context.Context, pod node.PodRef) (node.Attachment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return node.Attachment{}, s.fail
	}
	s.wired[pod.SandboxID] = pod
	return node.Attachment{
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.5")}, HostInterface: "drayabc", MAC: "0a:d3:00:00:00:05", MTU: 1450,
	}, nil
}

func (s *scripted) Remove(_ context.Context, pod node.PodRef) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.wired, pod.SandboxID)
	return nil
}

func (s *scripted) Check(_ context.Context, pod node.PodRef) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.wired[pod.SandboxID]; !ok {
		return errors.New("no such sandbox")
	}
	return nil
}

var _ = Describe("The plugin", func() {
	var (
		plugin, socket string
		network        *scripted
		stop           context.CancelFunc
		served         chan error
	)

	BeforeEach(func() {
		dir := GinkgoT().TempDir()
		plugin, socket = filepath.Join(dir, cni.Plugin), filepath.Join(dir, "run", "cni.sock")
		output, err := exec.Command("go", "build", "-o", plugin, "drayage.dev/cmd/dray-cni").CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(output))
		network = &scripted{wired: map[string]node.PodRef{}}
		var ctx context.Context
		ctx, stop = context.WithCancel(context.Background())
		served = make(chan error, 1)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			served <- cniserver.Serve(ctx, socket, network, func(err error) bool { return errors.Is(err, errSoon) })
		}()
		DeferCleanup(func() {
			stop()
			<-ended
		})
		Eventually(func() error {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				err = conn.Close()
			}
			return err
		}).Should(Succeed())
	})

	// call runs the plugin as a runtime does.
	call := func(command string) (string, error) {
		conf, err := cni.NetworkConfig(socket)
		Expect(err).NotTo(HaveOccurred())
		var list struct {
			Name    string           `json:"name"`
			Version string           `json:"cniVersion"`
			Plugins []map[string]any `json:"plugins"`
		}
		Expect(json.Unmarshal(conf, &list)).To(Succeed())
		single := list.Plugins[0]
		single["name"], single["cniVersion"] = list.Name, list.Version
		stdin, err := json.Marshal(single)
		Expect(err).NotTo(HaveOccurred())
		run := exec.Command(plugin)
		run.Env = []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=sandbox1", "CNI_NETNS=/run/netns/x", "CNI_IFNAME=eth0",
			"CNI_PATH=" + filepath.Dir(plugin), "CNI_NETNS_OVERRIDE=1",
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1",
		}
		run.Stdin = bytes.NewReader(stdin)
		output, err := run.Output()
		return string(output), err
	}

	It("wires, checks and removes through the agent", func() {
		output, err := call("ADD")
		Expect(err).NotTo(HaveOccurred(), output)
		var result current.Result
		Expect(json.Unmarshal([]byte(output), &result)).To(Succeed())
		Expect(result.CNIVersion).To(Equal("1.0.0"))
		Expect(result.IPs[0].Address.String()).To(Equal("10.244.1.5/32"))
		Expect(result.Interfaces[*result.IPs[0].Interface].Sandbox).To(Equal("/run/netns/x"))
		Expect(network.wired).To(HaveKeyWithValue("sandbox1", node.PodRef{
			UID: "u1", Namespace: "shop", Name: "web", SandboxID: "sandbox1", NetNS: "/run/netns/x",
		}))
		_, err = call("CHECK")
		Expect(err).NotTo(HaveOccurred())
		_, err = call("DEL")
		Expect(err).NotTo(HaveOccurred())
		output, err = call("CHECK")
		Expect(err).To(HaveOccurred())
		Expect(output).To(ContainSubstring("no such sandbox"))
	})

	It("tells errors that pass from those that stay", func() {
		network.fail = errSoon
		output, err := call("ADD")
		Expect(err).To(HaveOccurred())
		Expect(output).To(MatchJSON(`{"code":11,"msg":"not yet"}`))
		network.fail = errors.New("broken")
		output, _ = call("ADD")
		Expect(output).To(ContainSubstring(`"code": 999`))
	})

	It("lets pods end, quickly, while the agent is away, and serves again after a kill", func() {
		stop()
		Eventually(served).Should(Receive(BeNil()))
		start := time.Now()
		_, err := call("DEL")
		Expect(err).NotTo(HaveOccurred())
		Expect(time.Since(start)).To(BeNumerically("<", 5*time.Second), "the longest that a DEL may wait for an agent that is there")
		output, err := call("ADD")
		Expect(err).To(HaveOccurred())
		Expect(output).To(ContainSubstring("does not answer"))
	})
})
