package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/miekg/dns"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"drayage.dev/cmd/dray-agent/app"
)

const (
	// refreshPeriod is how often the identity is looked at. Kubernetes renews a token when a fifth of its
	// hour is left, and clients read its file every minute.
	refreshPeriod = 30 * time.Second
	// hostPath is where programs are looked for on the machine, behind those of the image.
	hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Config says how the agent runs as a pod.
type Config struct {
	// DataDir and RunDir are the agent's. Both have to be directories of the machine that the pod sees by
	// the same path.
	DataDir, RunDir string
	// ServiceAccountDir is where Kubernetes mounts the pod's token; ClientCAFile is the authority of the
	// one who may read logs and run commands, mounted from a ConfigMap. When empty, nothing is served.
	ServiceAccountDir, ClientCAFile string
	// ResolvConf is the pod's: with dnsPolicy ClusterFirstWithHostNet it names the cluster's name servers.
	ResolvConf string
	// Arguments are the agent's further ones.
	Arguments []string
}

// NewCommand returns `dray-agent pod`.
func NewCommand() *cobra.Command {
	defaults := app.DefaultConfig()
	config := Config{
		DataDir: defaults.DataDir, RunDir: defaults.RunDir, ServiceAccountDir: "/var/run/secrets/kubernetes.io/serviceaccount",
		ResolvConf: "/etc/resolv.conf",
	}
	cmd := &cobra.Command{
		Use:   "pod [flags] -- [flags of dray-agent]",
		Short: "Run the agent as a pod of a cluster",
		Long: `Runs the agent as the container of a DaemonSet's pod: copies the programs of the image to <data-dir>/bin on the
machine, and runs the agent in the machine's mount namespace with the pod's identity. What the agent starts goes on
when the pod ends, and the next agent finds it.

The pod needs hostPID, hostNetwork, the directories --data-dir and --run-dir as hostPath volumes by the same paths, and
the privileges to enter the machine's mount namespace and to run containers there.`,
		Example:      `  dray-agent pod --client-ca-file /etc/drayage/ca.crt -- --node-name $(NODE_NAME) --node-ip $(NODE_IP) --slot-cpu 2 --slot-memory 4Gi`,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(_ *cobra.Command, args []string) error {
			config.Arguments = args
			return Run(klog.NewContext(ctrl.SetupSignalHandler(), klog.Background()), config)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.DataDir, "data-dir", config.DataDir, "directory of what survives a reboot, on the machine and in the pod")
	flags.StringVar(&config.RunDir, "run-dir", config.RunDir, "directory of sockets and other state that does not survive a reboot, on the machine and in the pod")
	flags.StringVar(&config.ServiceAccountDir, "service-account-dir", config.ServiceAccountDir, "where the pod's token is mounted")
	flags.StringVar(&config.ResolvConf, "resolv-conf", config.ResolvConf, "the pod's resolver configuration: its name servers are asked for names that are not Drayage's; empty: those of the machine's")
	flags.StringVar(&config.ClientCAFile, "client-ca-file", config.ClientCAFile, "authority of the API server's client certificate; nothing is served when empty")
	return cmd
}

// Run runs the agent until ctx ends, the agent does, or an authority is replaced, which is reason enough to
// start anew. A stop in good order returns nil.
func Run(ctx context.Context, config Config) error {
	log := logr.FromContextOrDiscard(ctx).WithName("pod")
	bin := filepath.Join(config.DataDir, "bin")
	if err := install(bin); err != nil {
		return err
	}
	identity := identity{source: config.ServiceAccountDir, clientCA: config.ClientCAFile, dir: filepath.Join(config.RunDir, "identity")}
	if err := identity.write(); err != nil {
		return err
	}
	arguments := []string{
		"--kubeconfig", identity.kubeconfig(), "--data-dir", config.DataDir, "--run-dir", config.RunDir, "--bin-dir", bin,
		"--in-cluster",
	}
	if servers := clusterDNS(config.ResolvConf); len(servers) > 0 {
		arguments = append(arguments, "--host-dns", strings.Join(servers, ","))
	}
	if config.ClientCAFile != "" {
		arguments = append(arguments, "--request-serving-certificate", "--client-ca-file", identity.clientCAFile())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- onHost(ctx, bin, append(arguments, config.Arguments...)...) }()
	ticker := time.NewTicker(refreshPeriod)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-ticker.C:
			renewed, err := identity.refresh()
			if err != nil {
				log.Error(err, "Identity not renewed, trying again")
			}
			if renewed {
				log.Info("An authority was replaced, starting anew")
				cancel()
				return <-ended
			}
		}
	}
}

// clusterDNS returns the name servers of the pod, none that only this machine's processes reach.
func clusterDNS(file string) []string {
	if file == "" {
		return nil
	}
	config, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(config.Servers, func(server string) bool { return net.ParseIP(server) == nil })
}

// onHost runs the machine's copy of this program there and waits for it. When ctx ends it is asked to end.
// When this process is killed, so is it.
func onHost(ctx context.Context, bin string, arguments ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// The signal comes when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, self, append([]string{enterCommand, filepath.Join(bin, "dray-agent")}, arguments...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(slices.DeleteFunc(os.Environ(), isPath), "PATH="+bin+":"+hostPath)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Run(); err != nil && !(ctx.Err() != nil && errors.Is(err, ctx.Err())) {
		return fmt.Errorf("running the agent on the machine: %w", err)
	}
	return nil
}

func isPath(variable string) bool { return len(variable) > 5 && variable[:5] == "PATH=" }

// NewCleanCommand returns `dray-agent clean`.
func NewCleanCommand() *cobra.Command {
	config := app.DefaultConfig()
	var host, purge bool
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Take everything of a node off this machine",
		Long: `Waits until no agent runs on this machine, then kills what Drayage runs and removes what it made: processes, mounts,
links, routes, tables, cgroups and the runtime's state. It may be run again at any time. With --purge, images, volumes
and certificates go, too. With --host it works from a pod (hostPID, with --data-dir and --run-dir as hostPath volumes).`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := ctrl.SetupSignalHandler()
			if !host {
				return app.CleanWhenGone(ctx, config, purge)
			}
			bin := filepath.Join(config.DataDir, "bin")
			if err := install(bin); err != nil {
				return err
			}
			return onHost(ctx, bin, "clean", "--data-dir", config.DataDir, "--run-dir", config.RunDir,
				"--cgroup-root", config.CgroupRoot, fmt.Sprintf("--purge=%t", purge))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.DataDir, "data-dir", config.DataDir, "the agent's data directory")
	flags.StringVar(&config.RunDir, "run-dir", config.RunDir, "the agent's directory of sockets and runtime state")
	flags.StringVar(&config.CgroupRoot, "cgroup-root", config.CgroupRoot, "the cgroup of everything that the agent runs")
	flags.BoolVar(&host, "host", false, "do it in the machine's mount namespace, from a pod")
	flags.BoolVar(&purge, "purge", false, "delete the node's data, too")
	return cmd
}
