package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"

	"drayage.dev/agent/cgroups"
)

// Config says where a daemon lives. Every directory is made when it is missing.
type Config struct {
	// Binary is containerd's path; empty means: look it up in PATH.
	Binary string
	// Launcher is put in front of the binary, such as nsenter with its arguments, where the daemon
	// has to live in other namespaces than the agent.
	Launcher []string
	// DataDir keeps images, snapshots, configuration and log; it survives a reboot.
	DataDir string
	// RunDir keeps socket, pid file and the state of running containers; it does not.
	RunDir string
	// SandboxImage is the image of sandboxes. The built-in one is PauseImage.
	SandboxImage string
	// Plugin is the path of the network's plugin, which also answers as "loopback"; Network is the
	// content of its configuration file.
	Plugin  string
	Network []byte
	// RegistryDir holds hosts.toml files by registry (containerd's certs.d).
	RegistryDir string
	// MachineRegistryDir is the same of the machine's administrator, which holds for registries that
	// RegistryDir does not have; empty means none. It is looked at when the daemon's configuration is written.
	MachineRegistryDir string
	// Snapshotter is overlayfs when empty, or native where the kernel has no overlay filesystem.
	Snapshotter string
	// Cgroups and Cgroup are the tree and the path in it that the daemon and its shims live in; with
	// a nil tree they stay in the agent's.
	Cgroups *cgroups.Tree
	Cgroup  string
}

// Socket is where the daemon listens.
func (c Config) Socket() string { return filepath.Join(c.RunDir, "containerd.sock") }

func (c Config) pidFile() string    { return filepath.Join(c.RunDir, "containerd.pid") }
func (c Config) stateDir() string   { return filepath.Join(c.RunDir, "state") }
func (c Config) rootDir() string    { return filepath.Join(c.DataDir, "root") }
func (c Config) configFile() string { return filepath.Join(c.DataDir, "config.toml") }
func (c Config) logFile() string    { return filepath.Join(c.DataDir, "containerd.log") }
func (c Config) pluginDir() string  { return filepath.Join(c.DataDir, "cni-bin") }
func (c Config) cniDir() string     { return filepath.Join(c.DataDir, "cni") }
func (c Config) optDir() string     { return filepath.Join(c.DataDir, "opt") }
func (c Config) runcDir() string    { return filepath.Join(c.RunDir, "runc") }

// packages is what to install for a missing binary.
const packages = "install it: apt-get install -y --no-install-recommends containerd runc"

// resolve fills in what was left empty and refuses what cannot work.
func (c *Config) resolve() error {
	if c.Binary == "" {
		c.Binary = "containerd"
	}
	path, err := exec.LookPath(c.Binary)
	if err != nil {
		return fmt.Errorf("containerd is missing (%w); %s", err, packages)
	}
	c.Binary = path
	if _, err := exec.LookPath("runc"); err != nil {
		return fmt.Errorf("runc is missing (%w); %s", err, packages)
	}
	if c.Snapshotter == "" {
		c.Snapshotter = "native"
		if overlay, err := os.ReadFile("/proc/filesystems"); err == nil && bytes.Contains(overlay, []byte("\toverlay\n")) {
			c.Snapshotter = "overlayfs"
		}
	}
	if c.SandboxImage == "" {
		c.SandboxImage = PauseImage
	}
	// A unix socket's path must fit into 107 bytes.
	if len(c.Socket()) > 107 {
		return fmt.Errorf("the socket path %s is too long; choose a shorter run directory", c.Socket())
	}
	return nil
}

// The version 2 configuration is understood by containerd 1.6 and, converted at start, by 2.x. What containerd
// would share with one of the machine's by default (NRI's socket, /opt/containerd, runc's state, a folder of
// imported configuration) it has for itself or not at all.
var configuration = template.Must(template.New("config").Parse(`# Written by the Drayage agent at each start; changes are lost.
version = 2
root = {{printf "%q" .Root}}
state = {{printf "%q" .State}}
imports = []
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[debug]
level = "warn"

[grpc]
address = {{printf "%q" .Socket}}

[plugins."io.containerd.internal.v1.opt"]
path = {{printf "%q" .Opt}}

[plugins."io.containerd.nri.v1.nri"]
disable = true

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {{printf "%q" .SandboxImage}}
disable_tcp_service = true
restrict_oom_score_adj = {{.RestrictOOM}}
netns_mounts_under_state_dir = true
tolerate_missing_hugetlb_controller = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {{printf "%q" .CNIBinDir}}
conf_dir = {{printf "%q" .CNIConfDir}}
max_conf_num = 1

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = {{printf "%q" .RegistryDir}}

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = {{printf "%q" .Snapshotter}}
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
Root = {{printf "%q" .Runc}}
`))

// write puts configuration files and directories in place.
func (c Config) write() error {
	for _, dir := range []string{c.DataDir, c.RunDir, c.rootDir(), c.stateDir(), c.cniDir(), c.pluginDir(), c.RegistryDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	var text bytes.Buffer
	if err := configuration.Execute(&text, map[string]any{
		"Root": c.rootDir(), "State": c.stateDir(), "Socket": c.Socket(), "SandboxImage": c.SandboxImage,
		"RestrictOOM": !mayLowerOOMScore(), "CNIBinDir": c.pluginDir(), "CNIConfDir": c.cniDir(),
		"RegistryDir": c.RegistryDir, "Snapshotter": c.Snapshotter, "Opt": c.optDir(), "Runc": c.runcDir(),
	}); err != nil {
		return err
	}
	if c.Plugin != "" {
		for _, name := range []string{filepath.Base(c.Plugin), "loopback"} {
			if err := replaceLink(filepath.Join(c.pluginDir(), name), c.Plugin); err != nil {
				return err
			}
		}
	}
	return errors.Join(
		linkRegistries(c.RegistryDir, c.MachineRegistryDir),
		replaceFile(c.configFile(), text.Bytes()),
		replaceFile(filepath.Join(c.cniDir(), "10-drayage.conflist"), c.Network),
	)
}

// replaceFile writes a file whole or not at all, and leaves an equal one alone: containerd watches the
// directory of its network configuration.
func replaceFile(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	draft := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(draft, data, 0o644); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

// replaceLink makes a symbolic link, also in the place of another one.
func replaceLink(path, target string) error {
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, draft); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

// mayLowerOOMScore says whether this process has CAP_SYS_RESOURCE, without which the kernel lets nobody
// lower an OOM score and every sandbox would fail.
func mayLowerOOMScore() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[unix.CAP_SYS_RESOURCE>>5].Effective&(1<<(unix.CAP_SYS_RESOURCE&31)) != 0
}

// version returns the daemon's version, such as "1.6.20", by asking the binary.
func (c Config) version() (string, error) {
	output, err := exec.Command(c.Binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", c.Binary, err)
	}
	for field := range strings.FieldsSeq(string(output)) {
		field = strings.TrimPrefix(field, "v")
		if field[0] >= '0' && field[0] <= '9' {
			version, _, _ := strings.Cut(field, "~")
			return version, nil
		}
	}
	return "", fmt.Errorf("reading the version of %s from %q", c.Binary, strings.TrimSpace(string(output)))
}
