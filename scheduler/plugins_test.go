package scheduler_test

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	fwk "k8s.io/kube-scheduler/framework"

	dcorev1 "drayage.dev/apis/core/v1"
)

const nodeThiefName = "NodeThief"

// nodeThief deletes the first node that is chosen, after the decision and before the binding.
type nodeThief struct {
	handle fwk.Handle
	mu     sync.Mutex
	node   string
}

func (*nodeThief) Name() string { return nodeThiefName }

func (t *nodeThief) stole() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.node
}

func (*nodeThief) PreBindPreFlight(context.Context, fwk.CycleState, *corev1.Pod, string) (*fwk.PreBindPreFlightResult, *fwk.Status) {
	return nil, nil
}

func (t *nodeThief) PreBind(ctx context.Context, _ fwk.CycleState, _ *corev1.Pod, node string) *fwk.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.node != "" {
		return nil
	}
	t.node = node
	if err := admin.Delete(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}); err != nil {
		return fwk.AsStatus(err)
	}
	nodes := t.handle.SharedInformerFactory().Core().V1().Nodes().Lister()
	return fwk.AsStatus(wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		_, err := nodes.Get(node)
		return err != nil, nil
	}))
}

// pause holds each binding between two signals of the spec: the decision is made, the binding goes on.
type pause struct{ gate chan struct{} }

func (pause) Name() string { return "Slow" }

func (pause) PreBindPreFlight(context.Context, fwk.CycleState, *corev1.Pod, string) (*fwk.PreBindPreFlightResult, *fwk.Status) {
	return nil, nil
}

func (p pause) PreBind(ctx context.Context, _ fwk.CycleState, _ *corev1.Pod, _ string) *fwk.Status {
	for range 2 {
		select {
		case <-p.gate:
		case <-ctx.Done():
			return fwk.AsStatus(ctx.Err())
		}
	}
	return nil
}
