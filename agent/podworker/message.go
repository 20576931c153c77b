package podworker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/utils/ptr"

	"drayage.dev/agent"
)

// Kubelet's bounds on what a container may leave behind as its termination message.
const (
	maxMessageBytes  = 4096
	maxLogTailBytes  = 2048
	maxLogTailLines  = 80
	messagePathKey   = "io.kubernetes.container.terminationMessagePath"
	messagePolicyKey = "io.kubernetes.container.terminationMessagePolicy"
)

func (w *worker) terminationFile(pod types.UID, container string, attempt uint32) string {
	return filepath.Join(w.manager.podDir(pod), "containers", container, fmt.Sprint(attempt))
}

// makeTerminationFile makes the file that is mounted where the container may write its last words.
// Whoever it runs as must be able to.
func (w *worker) makeTerminationFile(pod *corev1.Pod, container string, attempt uint32) (string, error) {
	path := w.terminationFile(pod.UID, container, attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return "", err
	}
	defer file.Close()
	// The umask may have narrowed the mode.
	return path, file.Chmod(0o666)
}

// terminationMessage returns a container's last words: the file's, or its log's end where it asked for that.
func (w *worker) terminationMessage(container agent.Container) string {
	if container.Annotations[messagePathKey] != "" {
		if file, err := os.Open(w.terminationFile(w.uid, container.Name, container.Attempt)); err == nil {
			defer file.Close()
			if text, err := io.ReadAll(io.LimitReader(file, maxMessageBytes)); err == nil && len(text) > 0 {
				return string(text)
			}
		}
	}
	if container.ExitCode == 0 || container.Annotations[messagePolicyKey] != string(corev1.TerminationMessageFallbackToLogsOnError) {
		return ""
	}
	var tail bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	options := &logs.LogOptions{TailLines: ptr.To[int64](maxLogTailLines)}
	if err := logs.ReadLogs(ctx, container.LogPath, container.ID, options, nil, &tail, &tail); err != nil {
		return ""
	}
	text := tail.Bytes()
	return string(text[max(0, len(text)-maxLogTailBytes):])
}
