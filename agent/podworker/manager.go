package podworker

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"drayage.dev/agent"
	"drayage.dev/agent/metrics"
	"drayage.dev/agent/probes"
	"drayage.dev/agent/status"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/node"
	"drayage.dev/internal/upstream"
)

// Manager runs the pods of a node.
type Manager struct {
	Config
	statuses  *status.Writer
	admission admission
	backoff   *flowcontrol.Backoff
	probes    Probes
	hooks     hooks

	// ctx is the workers'; it is set by Run before the first of them starts.
	ctx context.Context
	log logr.Logger

	// held are the pods that the node held when Restore looked.
	held map[types.UID]bool

	mu      sync.Mutex
	workers map[types.UID]*worker
	running sync.WaitGroup
	// finished are the pods whose end is through while the watch still shows them.
	finished map[types.UID]bool
	// admissions is held while a pod is admitted, so that two do not take the same room.
	admissions sync.Mutex
}

// New returns a Manager; Run starts it.
func New(config Config) *Manager {
	config.setDefaults()
	m := &Manager{
		Config: config, statuses: status.NewWriter(config.Client), admission: newAdmission(config.Node),
		backoff: flowcontrol.NewBackOff(config.Backoff, config.MaxBackoff),
		workers: map[types.UID]*worker{}, finished: map[types.UID]bool{},
	}
	m.hooks = newHooks(m)
	return m
}

// Run follows the pods that source shows until ctx ends, and returns when every worker has stopped.
// Containers go on. Restore must have returned; source must show this node's pods only.
func (m *Manager) Run(ctx context.Context, source cache.Informer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.ctx, m.log = ctx, logr.FromContextOrDiscard(ctx).WithName("pods")
	m.probes = m.newProbes(ctx)
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		m.statuses.Run(ctx)
	}()
	events := m.Events.Watch(ctx)
	registration, err := source.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { m.update(object.(*dcorev1.Pod)) },
		UpdateFunc: func(_, object any) { m.update(object.(*dcorev1.Pod)) },
		DeleteFunc: m.delete,
	})
	if err != nil {
		return err
	}
	if !toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		return nil
	}
	m.endUnknown(m.held)
	go wait.UntilWithContext(ctx, func(context.Context) { m.backoff.GC() }, time.Minute)
	go wait.UntilWithContext(ctx, func(context.Context) { metrics.Running(m.shown()) }, countInterval)
	m.follow(events)
	_ = source.RemoveEventHandler(registration)
	cancel()
	m.running.Wait()
	<-writing
	return nil
}

// newProbes is the probes' manager unless a spec has put its own in place.
func (m *Manager) newProbes(ctx context.Context) Probes {
	if m.probes != nil {
		return m.probes
	}
	return probes.New(ctx, probes.Config{
		Exec: m.Execs.Exec, Changed: m.probed, Clock: nil,
		Event: func(pod *corev1.Pod, container *corev1.Container, eventType, reason, message string) {
			m.Recorder.Event(Ref(pod, container), eventType, reason, message)
		},
	})
}

// Restore finds the pods that runtime, disk and cgroups hold, before anything is decided about them, and
// tells the network which of them live.
func (m *Manager) Restore(ctx context.Context) error {
	var states []agent.PodState
	var last error
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		states, last = m.Runtime.List(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("listing the runtime's pods: %w", last)
	}
	held := map[types.UID]bool{}
	var live []node.PodRef
	for _, state := range states {
		held[state.UID] = true
		if len(state.Sandboxes) > 0 && state.Sandboxes[0].Ready {
			live = append(live, state.Ref())
		}
	}
	if m.Network != nil {
		if err := m.Network.Restore(ctx, live); err != nil {
			return fmt.Errorf("restoring the pods' network: %w", err)
		}
	}
	entries, err := os.ReadDir(m.PodsDir)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, entry := range entries {
		held[types.UID(entry.Name())] = true
	}
	for _, uid := range m.Cgroups.Pods() {
		held[uid] = true
	}
	m.held = held
	return nil
}

// endUnknown ends what the node holds under UIDs that the API does not know: pods that were deleted by
// force, or while no agent ran.
func (m *Manager) endUnknown(held map[types.UID]bool) {
	for uid := range held {
		m.mu.Lock()
		_, known := m.workers[uid]
		if !known && uid != "" {
			m.log.Info("Ending a pod that the API does not know", "uid", uid)
			m.start(uid, nil)
		}
		m.mu.Unlock()
	}
}

// start makes a worker for a pod, or for what is left of one that the API does not know (pod is nil).
// The caller holds m.mu.
func (m *Manager) start(uid types.UID, pod *corev1.Pod) {
	w := newWorker(m, uid)
	w.pod, w.gone = pod, pod == nil
	m.workers[uid] = w
	m.running.Go(func() {
		w.run(logr.NewContext(m.ctx, m.log))
		if m.ctx.Err() == nil {
			m.mu.Lock()
			delete(m.workers, uid)
			if _, gone := w.snapshot(); !gone {
				m.finished[uid] = true
			}
			m.mu.Unlock()
			m.statuses.Forget(uid)
		}
	})
}

// update takes a version of a pod from the watch.
func (m *Manager) update(object *dcorev1.Pod) {
	pod := upstream.Pod(object.DeepCopy())
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.finished[pod.UID] {
		return
	}
	m.statuses.Observe(object)
	w := m.workers[pod.UID]
	if w == nil {
		m.start(pod.UID, pod)
		return
	}
	w.update(pod)
}

// delete notes that the API does not know a pod any more.
func (m *Manager) delete(object any) {
	if unknown, ok := object.(toolscache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	pod, ok := object.(*dcorev1.Pod)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.finished, pod.UID)
	if w := m.workers[pod.UID]; w != nil {
		w.vanish()
	} else {
		m.statuses.Forget(pod.UID)
	}
}

// follow passes the runtime's hints on until their channel is closed.
func (m *Manager) follow(events <-chan agent.Event) {
	for event := range events {
		m.mu.Lock()
		switch w := m.workers[event.Pod]; {
		case event.Overflow:
			for _, w := range m.workers {
				w.nudge()
			}
		case w != nil:
			w.nudge()
		case event.Pod != "" && m.ctx.Err() == nil && !m.finished[event.Pod]:
			m.log.V(1).Info("Heard of a pod that has no worker", "uid", event.Pod)
		}
		m.mu.Unlock()
	}
}

// Changed wakes the workers of pods whose Secrets or ConfigMaps have changed. It does not block.
func (m *Manager) Changed(pods []types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, uid := range pods {
		if w := m.workers[uid]; w != nil {
			w.stale()
		}
	}
}

// probed passes a probe's finding to the pod's worker.
func (m *Manager) probed(change probes.Change) {
	m.mu.Lock()
	w := m.workers[change.Pod]
	m.mu.Unlock()
	if w != nil {
		w.probed(change)
	}
}

// admit asks whether a pod may run beside those that do.
func (m *Manager) admit(newcomer *worker, pod *corev1.Pod) *status.Verdict {
	m.admissions.Lock()
	defer m.admissions.Unlock()
	var others []*corev1.Pod
	m.mu.Lock()
	for _, w := range m.workers {
		if w == newcomer {
			continue
		}
		w.mu.Lock()
		if w.pod != nil && w.settled && !completed(w.pod.Status.Phase) {
			others = append(others, w.pod)
		}
		w.mu.Unlock()
	}
	m.mu.Unlock()
	verdict := m.admission.admit(pod, others)
	newcomer.mu.Lock()
	newcomer.settled = verdict == nil
	newcomer.mu.Unlock()
	return verdict
}

// detach has the network take back what a pod had; the runtime has done so already, unless it died.
func (m *Manager) detach(ctx context.Context, state agent.PodState) error {
	if m.Network == nil {
		return nil
	}
	for _, sandbox := range state.Sandboxes {
		ref := node.PodRef{UID: state.UID, Namespace: state.Namespace, Name: state.Name, SandboxID: sandbox.ID, Addresses: sandbox.Addresses}
		if err := m.Network.Remove(ctx, ref); err != nil {
			return fmt.Errorf("returning the pod's network: %w", err)
		}
	}
	return nil
}

func (m *Manager) hostIPs() []string {
	var texts []string
	for _, address := range m.HostIPs {
		texts = append(texts, address.String())
	}
	return texts
}

// countInterval is how often the pods are counted for the metrics.
const countInterval = 5 * time.Second

// shown returns the statuses of this node's pods, which are read only.
func (m *Manager) shown() (statuses []*corev1.PodStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if _, status := w.shown(); status != nil {
			statuses = append(statuses, status)
		}
	}
	return statuses
}

// Pod returns a pod of this node with its status as its worker knows it, which may be ahead of the API's.
// The result is read only.
func (m *Manager) Pod(namespace, name string) (*corev1.Pod, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if pod, status := w.shown(); pod != nil && pod.Namespace == namespace && pod.Name == name {
			if status != nil {
				pod = pod.DeepCopy()
				pod.Status = *status
			}
			return pod, true
		}
	}
	return nil, false
}

// Drain ends every pod of the node with its grace period, as if each had been deleted, without touching
// the API. It is how a node is taken down; Run must have returned.
func (m *Manager) Drain(ctx context.Context) error {
	states, err := m.Runtime.List(ctx)
	if err != nil {
		return err
	}
	var drains sync.WaitGroup
	failures := make(chan error, len(states))
	for _, state := range states {
		drains.Go(func() {
			if err := m.drainPod(ctx, state); err != nil {
				failures <- fmt.Errorf("ending pod %s/%s: %w", state.Namespace, state.Name, err)
			}
		})
	}
	drains.Wait()
	close(failures)
	var texts []string
	for err := range failures {
		texts = append(texts, err.Error())
	}
	if len(texts) > 0 {
		return fmt.Errorf("%s", strings.Join(texts, "; "))
	}
	return nil
}

// drainPod stops one pod's containers gently and takes its sandbox and volumes away. Its directory and its
// logs stay: the node may come back, and the pod with it.
func (m *Manager) drainPod(ctx context.Context, state agent.PodState) error {
	w := newWorker(m, state.UID)
	p := &pass{worker: w, pod: &corev1.Pod{}, state: state}
	if known := m.workers[state.UID]; known != nil && known.pod != nil {
		p.pod = known.pod
	}
	p.pod.UID = state.UID
	deadline := m.Clock.Now().Add(w.specGrace(p.pod))
	if err := w.stopOrdered(ctx, p, func() time.Time { return deadline }, nil); err != nil {
		return err
	}
	if err := m.Runtime.Remove(ctx, state.UID); err != nil {
		return err
	}
	if err := m.detach(ctx, state); err != nil {
		return err
	}
	return m.Volumes.Unmount(ctx, state.UID)
}
