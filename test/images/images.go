package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Image is one image under one name.
type Image struct {
	// Name as a manifest writes it, such as "my-app:1.0".
	Name string
	v1.Image
}

// Roles of the demo application, chosen by an image's environment.
const (
	roleApp     = "app"
	roleProxy   = "proxy"
	roleShipper = "shipper"
)

// demos are the names under which the reference manifests expect an application, and what it is.
var demos = []struct{ name, role, listen string }{
	{"my-app:1.0", roleApp, ":8080"},
	{"my-app:2.0", roleApp, ":8080"},
	{"my-app:latest", roleApp, ":8080"},
	{"my-app:blue", roleApp, ":8080"},
	{"my-app:green", roleApp, ":8080"},
	{"myapp:latest", roleApp, ":8080"},
	{"myapp:2.0", roleApp, ":8080"},
	{"user-service:latest", roleApp, ":8080"},
	{"order-service:latest", roleApp, ":8080"},
	{"legacy-app:latest", roleApp, ":8080"},
	{"prometheus-adapter:latest", roleApp, ":9090"},
	{"postgres-proxy:latest", roleProxy, ":5432"},
	{"fluentd:latest", roleShipper, ""},
}

// Build compiles the sources and returns every image. It takes a few seconds on a warm build cache.
func Build(ctx context.Context) ([]Image, error) {
	dir, err := os.MkdirTemp("", "drayage-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)

	demo, err := compile(ctx, dir, "demo")
	if err != nil {
		return nil, err
	}
	tool, err := compile(ctx, dir, "tool")
	if err != nil {
		return nil, err
	}

	links := map[string]string{}
	for _, applet := range []string{
		"sh", "cat", "chmod", "env", "grep", "hostname", "id", "kill", "ls", "mkdir", "nslookup", "ps", "rm",
		"sleep", "stat", "touch", "wget",
	} {
		links["bin/"+applet] = "tool"
	}
	toolLayer, err := layer(map[string][]byte{
		"bin/tool":   tool,
		"etc/passwd": []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n"),
		"etc/group":  []byte("root:x:0:\nnobody:x:65534:\n"),
	}, links)
	if err != nil {
		return nil, err
	}
	var images []Image
	demoLayer, err := layer(map[string][]byte{"bin/demo": demo}, nil)
	if err != nil {
		return nil, err
	}
	for _, d := range demos {
		image, err := assemble(v1.Config{
			Entrypoint: []string{"/bin/demo"},
			Env:        []string{"PATH=/bin", "DEMO_IMAGE=" + d.name, "DEMO_ROLE=" + d.role, "DEMO_LISTEN=" + d.listen},
		}, toolLayer, demoLayer)
		if err != nil {
			return nil, fmt.Errorf("assembling %s: %w", d.name, err)
		}
		images = append(images, Image{Name: d.name, Image: image})
	}

	for _, name := range []string{"busybox:latest", "busybox:1.36"} {
		image, err := assemble(v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}, toolLayer)
		if err != nil {
			return nil, fmt.Errorf("assembling %s: %w", name, err)
		}
		images = append(images, Image{Name: name, Image: image})
	}
	return images, nil
}

// Program returns an image of one static binary.
func Program(path string) (v1.Image, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	packed, err := layer(map[string][]byte{"bin/" + filepath.Base(path): data}, nil)
	if err != nil {
		return nil, err
	}
	return assemble(v1.Config{Entrypoint: []string{"/bin/" + filepath.Base(path)}}, packed)
}

// compile builds one command of this folder as a static binary and returns it.
func compile(ctx context.Context, dir, name string) ([]byte, error) {
	out := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", out, "drayage.dev/test/images/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if root := sourceDir(); root != "" {
		cmd.Dir = root
	}
	if message, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling the %s image's binary: %w: %s", name, err, message)
	}
	return os.ReadFile(out)
}

// sourceDir is where this package's sources were compiled from.
func sourceDir() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return ""
	}
	return filepath.Dir(file)
}

// layer packs files (executable) and symbolic links into one layer, with the folders of an ordinary root
// file system. The same contents always give the same digest.
func layer(files map[string][]byte, links map[string]string) (v1.Layer, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, dir := range []struct {
		name string
		mode int64
	}{{"bin", 0o755}, {"etc", 0o755}, {"root", 0o700}, {"tmp", 0o1777}, {"var", 0o755}, {"var/run", 0o755}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir.name + "/", Mode: dir.mode}); err != nil {
			return nil, err
		}
	}
	for _, name := range sorted(files) {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(files[name]))}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range sorted(links) {
		header := &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: links[name], Mode: 0o777}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	})
}

func assemble(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", runtime.GOARCH, v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = config
	return mutate.ConfigFile(image, file)
}

// repository is the path and tag under which a registry of docker.io serves a short image name.
func repository(name string) (repo, tag string) {
	repo, tag, found := strings.Cut(name, ":")
	if !found {
		tag = "latest"
	}
	if !strings.Contains(repo, "/") {
		repo = "library/" + repo
	}
	return repo, tag
}
