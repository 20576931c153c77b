package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	. "github.com/onsi/gomega"
)

// dockerfile is what the last stage of the Dockerfile makes: files by path with where `make build` puts
// them below bin/, and the image's configuration.
func dockerfile(g Gomega) (files map[string]string, config v1.Config) {
	text, err := os.ReadFile("../../../Dockerfile")
	g.Expect(err).NotTo(HaveOccurred())
	joined := strings.ReplaceAll(string(text), "\\\n", " ")
	_, last, found := strings.Cut(joined, "FROM scratch\n")
	g.Expect(found).To(BeTrue(), "the image's stage is from scratch")
	files = map[string]string{}
	for line := range strings.Lines(last) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		switch words[0] {
		case "COPY":
			g.Expect(words[1]).To(Equal("--from=build"))
			sources, target := words[2:len(words)-1], words[len(words)-1]
			for _, source := range sources {
				below, inBin := strings.CutPrefix(source, "/src/bin/")
				g.Expect(inBin).To(BeTrue(), "%s is not one of `make build`", source)
				to := target
				if strings.HasSuffix(target, "/") {
					to = path.Join(target, path.Base(source))
				}
				files[to] = below
			}
		case "ENV":
			config.Env = append(config.Env, words[1:]...)
		case "USER":
			config.User = words[1]
		case "ENTRYPOINT":
			g.Expect(json.Unmarshal([]byte(strings.TrimPrefix(strings.TrimSpace(line), "ENTRYPOINT")), &config.Entrypoint)).To(Succeed())
		default:
			g.Expect(words[0]).To(BeEmpty(), "an instruction that `make image` does not follow")
		}
	}
	return files, config
}

func TestTheImageIsTheDockerfiles(t *testing.T) {
	g := NewWithT(t)
	files, config := dockerfile(g)
	bin, output := t.TempDir(), filepath.Join(t.TempDir(), "image.tar")
	for _, file := range files {
		g.Expect(os.MkdirAll(filepath.Dir(filepath.Join(bin, file)), 0o755)).To(Succeed())
		g.Expect(os.WriteFile(filepath.Join(bin, file), []byte("I am "+file), 0o755)).To(Succeed())
	}
	g.Expect(assemble(bin, "drayage:test", output)).To(Succeed())
	image, err := tarball.ImageFromPath(output, nil)
	g.Expect(err).NotTo(HaveOccurred())

	assembled, err := image.ConfigFile()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(assembled.Config).To(Equal(config))

	contents := map[string]string{}
	stream := mutate.Extract(image)
	defer stream.Close()
	for archive := tar.NewReader(stream); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		g.Expect(err).NotTo(HaveOccurred())
		if header.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(archive)
		g.Expect(err).NotTo(HaveOccurred())
		contents["/"+strings.TrimPrefix(header.Name, "/")] = strings.TrimPrefix(string(data), "I am ")
		g.Expect(header.Mode&0o555).To(Equal(int64(0o555)), header.Name)
	}
	g.Expect(contents).To(Equal(files))
}

func TestTheImageHasEveryBinaryOfTheBuild(t *testing.T) {
	g := NewWithT(t)
	makefile, err := os.ReadFile("../../../Makefile")
	g.Expect(err).NotTo(HaveOccurred())
	line := regexp.MustCompile(`(?m)^BINARIES := (.*)$`).FindSubmatch(makefile)
	g.Expect(line).To(HaveLen(2))
	files, _ := dockerfile(g)
	for _, binary := range strings.Fields(string(line[1])) {
		g.Expect(files).To(HaveKeyWithValue("/usr/local/bin/"+binary, binary))
	}
}
