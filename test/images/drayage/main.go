package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// binaries are what the image carries, all static: Drayage's, and the container runtime of its nodes.
var binaries = []string{
	"dray", "dray-manager", "dray-scheduler", "dray-agent", "dray-dns", "dray-cni",
	"runtime/containerd", "runtime/containerd-shim-runc-v2", "runtime/runc",
}

func main() {
	bin := flag.String("bin", "bin", "folder of the binaries")
	tag := flag.String("tag", "drayage:dev", "name of the image")
	output := flag.String("output", "bin/drayage-image.tar", "file to write, as `docker load` and `ctr images import` read it")
	flag.Parse()
	if err := assemble(*bin, *tag, *output); err != nil {
		fmt.Fprintln(os.Stderr, "assembling the image:", err)
		os.Exit(1)
	}
	fmt.Println(*output)
}

func assemble(bin, tag, output string) error {
	reference, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	addenda := make([]mutate.Addendum, 0, len(binaries))
	for _, binary := range binaries {
		l, err := layer(filepath.Join(bin, binary), "usr/local/bin/"+filepath.Base(binary))
		if err != nil {
			return err
		}
		addenda = append(addenda, mutate.Addendum{Layer: l, History: v1.History{CreatedBy: "COPY bin/" + binary}})
	}
	image, err := mutate.Append(empty.Image, addenda...)
	if err != nil {
		return err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", runtime.GOARCH, v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = v1.Config{
		User: "65532:65532", Entrypoint: []string{"/usr/local/bin/dray"},
		Env: []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return err
	}
	return tarball.WriteToFile(output, reference, image)
}

// layer packs one file, with a time stamp of zero so that equal binaries give equal layers.
func layer(path, target string) (v1.Layer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w (run make build runtime first)", err)
	}
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: target, Mode: 0o755, Size: int64(len(data))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	})
}
