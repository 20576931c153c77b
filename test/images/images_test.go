package images_test

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/gomega"

	"drayage.dev/test/images"
)

func TestImagesAreServedUnderTheNamesOfTheManifests(t *testing.T) {
	g := NewWithT(t)
	built, err := images.Build(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	registry, err := images.NewRegistry(t.Context(), built)
	g.Expect(err).NotTo(HaveOccurred())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	served := make(chan error, 1)
	go func() { served <- registry.Serve(listener) }()

	reference, err := name.ParseReference(listener.Addr().String() + "/library/my-app:1.0")
	g.Expect(err).NotTo(HaveOccurred())
	image, err := remote.Image(reference)
	g.Expect(err).NotTo(HaveOccurred())
	file, err := image.ConfigFile()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(file.Config.Env).To(ContainElement("DEMO_IMAGE=my-app:1.0"))

	g.Expect(registry.Close()).To(Succeed())
	g.Expect(<-served).To(Succeed())
}

func TestToolShell(t *testing.T) {
	g := NewWithT(t)
	tool := filepath.Join(t.TempDir(), "tool")
	g.Expect(exec.Command("go", "build", "-o", tool, "./tool").Run()).To(Succeed())
	scratch := t.TempDir()

	out, err := exec.Command(tool, "sh", "-c", "echo ready=1 > "+scratch+"/f && grep -q ready=1 "+scratch+"/f && cat "+scratch+"/f").CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(out))
	g.Expect(string(out)).To(Equal("ready=1\n"))

	err = exec.Command(tool, "sh", "-c", "grep -q absent "+scratch+"/f || exit 7").Run()
	var exit *exec.ExitError
	g.Expect(errors.As(err, &exit)).To(BeTrue())
	g.Expect(exit.ExitCode()).To(Equal(7))
}
