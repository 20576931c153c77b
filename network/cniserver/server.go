package cniserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/internal/node"
	"drayage.dev/network/cni"
)

const (
	// maxCalls bounds the calls that are served at once; others wait in the socket's backlog.
	maxCalls = 64
	// callTimeout bounds one call, the reading of its request included.
	callTimeout = 30 * time.Second
)

// PodNetwork wires pods. package podnet's Manager satisfies it.
type PodNetwork interface {
	Add(ctx context.Context, pod node.PodRef) (node.Attachment, error)
	Remove(ctx context.Context, pod node.PodRef) error
	Check(ctx context.Context, pod node.PodRef) error
}

// Serve answers on the socket, which it makes anew, until ctx ends; it returns when the last call has
// been answered. TryAgain decides which errors of Add pass by themselves; nil means none.
func Serve(ctx context.Context, socket string, network PodNetwork, tryAgain func(error) bool) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return fmt.Errorf("making the directory of the plugin's socket: %w", err)
	}
	// A process that was killed leaves its socket behind.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the old plugin's socket: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listening for the network plugin: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(fmt.Errorf("protecting the plugin's socket: %w", err), listener.Close())
	}
	s := &server{network: network, tryAgain: tryAgain}
	var calls sync.WaitGroup
	defer calls.Wait()
	slots := make(chan struct{}, maxCalls)
	for {
		slots <- struct{}{}
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting a call of the network plugin: %w", err)
		}
		calls.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			s.serve(ctx, conn)
		})
	}
}

type server struct {
	network  PodNetwork
	tryAgain func(error) bool
}

func (s *server) serve(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	var request cni.Request
	if err := json.NewDecoder(conn).Decode(&request); err != nil {
		return
	}
	response := s.answer(ctx, request)
	_ = json.NewEncoder(conn).Encode(response)
}

func (s *server) answer(ctx context.Context, request cni.Request) cni.Response {
	pod := node.PodRef{
		UID: types.UID(request.UID), Namespace: request.Namespace, Name: request.Name,
		SandboxID: request.Sandbox, NetNS: request.NetNS,
	}
	var err error
	switch request.Command {
	case cni.Add:
		var attachment node.Attachment
		if attachment, err = s.network.Add(ctx, pod); err == nil {
			return cni.Response{
				Addresses: attachment.Addresses, HostInterface: attachment.HostInterface,
				MAC: attachment.MAC, MTU: attachment.MTU,
			}
		}
	case cni.Del:
		err = s.network.Remove(ctx, pod)
	case cni.Check:
		err = s.network.Check(ctx, pod)
	default:
		err = fmt.Errorf("unknown command %q", request.Command)
	}
	if err == nil {
		return cni.Response{}
	}
	return cni.Response{Error: err.Error(), TryAgain: s.tryAgain != nil && s.tryAgain(err)}
}
