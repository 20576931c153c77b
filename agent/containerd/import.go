package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/api/types"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Namespace is where containerd keeps what its container runtime interface makes.
const Namespace = "k8s.io"

// InNamespace returns a context whose calls to containerd's own services concern Namespace.
func InNamespace(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", Namespace)
}

// chunkBytes is how much of a blob one message carries; containerd accepts 16 MiB.
const chunkBytes = 1 << 20

// Import puts an image into the daemon's store under a full name ("registry/repository:tag"). It replaces
// another image of that name. The runtime unpacks it when it is used first.
func Import(ctx context.Context, conn *grpc.ClientConn, name string, image v1.Image) error {
	ctx = InNamespace(ctx)
	// Until an image refers to them, only a lease keeps blobs from the garbage collector.
	lease, err := leasesapi.NewLeasesClient(conn).Create(ctx, &leasesapi.CreateRequest{
		ID: "drayage-import-" + string(uuid.NewUUID()), Labels: map[string]string{"containerd.io/gc.expire": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return fmt.Errorf("taking a lease: %w", err)
	}
	leased := metadata.AppendToOutgoingContext(ctx, "containerd-lease", lease.Lease.ID)
	defer func() {
		_, _ = leasesapi.NewLeasesClient(conn).Delete(context.WithoutCancel(ctx), &leasesapi.DeleteRequest{ID: lease.Lease.ID})
	}()
	target, err := importBlobs(leased, contentapi.NewContentClient(conn), image)
	if err != nil {
		return err
	}
	store := imagesapi.NewImagesClient(conn)
	record := &imagesapi.Image{Name: name, Target: target}
	_, err = store.Create(leased, &imagesapi.CreateImageRequest{Image: record})
	if status.Code(err) == codes.AlreadyExists {
		_, err = store.Update(leased, &imagesapi.UpdateImageRequest{Image: record})
	}
	return err
}

// importBlobs writes layers, configuration and manifest, in this order, and returns the manifest's
// descriptor. The manifest's labels are the references that containerd's garbage collector follows.
func importBlobs(ctx context.Context, content contentapi.ContentClient, image v1.Image) (*types.Descriptor, error) {
	manifest, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	labels := map[string]string{"containerd.io/gc.ref.content.config": manifest.Config.Digest.String()}
	for i, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return nil, err
		}
		size, err := layer.Size()
		if err != nil {
			return nil, err
		}
		reader, err := layer.Compressed()
		if err != nil {
			return nil, err
		}
		err = writeBlob(ctx, content, digest.String(), size, reader, nil)
		reader.Close()
		if err != nil {
			return nil, fmt.Errorf("writing layer %s: %w", digest, err)
		}
		labels["containerd.io/gc.ref.content.l."+strconv.Itoa(i)] = digest.String()
	}
	raw, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	if err := writeBlob(ctx, content, manifest.Config.Digest.String(), int64(len(raw)), bytes.NewReader(raw), nil); err != nil {
		return nil, fmt.Errorf("writing configuration: %w", err)
	}
	if raw, err = image.RawManifest(); err != nil {
		return nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	if err := writeBlob(ctx, content, digest.String(), int64(len(raw)), bytes.NewReader(raw), labels); err != nil {
		return nil, fmt.Errorf("writing manifest: %w", err)
	}
	return &types.Descriptor{MediaType: string(manifest.MediaType), Digest: digest.String(), Size: int64(len(raw))}, nil
}

// writeBlob writes a blob unless the store has it.
func writeBlob(ctx context.Context, content contentapi.ContentClient, digest string, size int64, blob io.Reader, labels map[string]string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := content.Write(ctx)
	if err != nil {
		return err
	}
	send := func(request *contentapi.WriteContentRequest) error {
		request.Ref, request.Total, request.Expected = "drayage-import-"+digest, size, digest
		if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err := stream.Recv()
		return err
	}
	err = send(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT})
	buffer := make([]byte, chunkBytes)
	for offset := int64(0); err == nil; {
		var n int
		n, err = io.ReadFull(blob, buffer)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		request := &contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Offset: offset, Data: buffer[:n]}
		if last {
			request.Action, request.Labels = contentapi.WriteAction_COMMIT, labels
		}
		if err = send(request); last {
			break
		}
		offset += int64(n)
	}
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return err
}
