package containerd

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// PauseImage is the name of the built-in sandbox image. No registry has it.
const PauseImage = "drayage.dev/pause:1"

// pauseCode ignores SIGCHLD, so that the kernel reaps the orphans of a pod that shares its process
// namespace, and then sleeps for ever:
//
//	mov eax, 13; mov edi, 17; lea rsi, [action]; xor edx, edx; mov r10d, 8; syscall   (rt_sigaction)
//	sleep: mov eax, 34; syscall; jmp sleep                                            (pause)
//	action: SIG_IGN, no flags, no restorer, empty mask
var pauseCode = []byte{
	0xb8, 13, 0, 0, 0, 0xbf, 17, 0, 0, 0, 0x48, 0x8d, 0x35, 23, 0, 0, 0, 0x31, 0xd2, 0x41, 0xba, 8, 0, 0, 0, 0x0f, 0x05,
	0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7,
	0, 0, 0, 0,
	1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
}

// pauseBinary is pauseCode as a static executable: an ELF header and one loaded segment.
func pauseBinary() []byte {
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(pauseCode))
	var elf bytes.Buffer
	elf.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, field := range []any{
		// Type EXEC, machine x86-64, version, entry, program headers at 64, no sections, flags, sizes.
		uint16(2), uint16(62), uint32(1), uint64(base + headers), uint64(64), uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		// LOAD, read and execute, the whole file.
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000),
	} {
		_ = binary.Write(&elf, binary.LittleEndian, field)
	}
	elf.Write(pauseCode)
	return elf.Bytes()
}

// pauseImage builds the sandbox image.
func pauseImage() (v1.Image, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("there is no built-in sandbox image for %s; name one with --sandbox-image", runtime.GOARCH)
	}
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	binary := pauseBinary()
	if err := writer.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(binary))}); err != nil {
		return nil, err
	}
	if _, err := writer.Write(binary); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config.Entrypoint = []string{"/pause"}
	// Any user but root: the sandbox needs no right.
	file.Config.User = "65535:65535"
	return mutate.ConfigFile(image, file)
}
