package podobjects

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/internal/upstream"
)

// stream is one node's stream: a queue of what may have changed, and what was last sent. Watches fill
// the queue from their goroutines; run empties it from one, and is alone with the other fields.
type stream struct {
	watches *watches
	queue   *queue
	pods    *podStore
	// write sends one frame to the node.
	write func(*subresourcesv1alpha1.PodObjectsFrame) error

	// bound is what is watched for each pod that the node was told of, or will be.
	bound map[types.UID]*boundPod
	// uses counts, for each object that the stream has acquired, the pods that need it.
	uses map[key]int
	// listed is set when all pods of the first list have been looked at; synced when the node knows.
	listed, synced bool
}

// boundPod is a pod as the node knows it.
type boundPod struct {
	refs subresourcesv1alpha1.PodReferences
	// account is the service account that refs depend on; its kind is empty when they do not.
	account key
	// sent says that the node was told. A pod whose account is not known yet is held back, so that
	// its first frame names its pull secrets; its objects are not acquired before, so that their
	// frames come after it.
	sent bool
}

var _ subscriber = &stream{}

func newStream(w *watches, write func(*subresourcesv1alpha1.PodObjectsFrame) error) *stream {
	s := &stream{
		watches: w, queue: newQueue(), write: write,
		bound: map[types.UID]*boundPod{}, uses: map[key]int{},
	}
	s.pods = &podStore{queue: s.queue, pods: map[types.UID]needs{}}
	return s
}

func (s *stream) changed(k key) { s.queue.add(item{object: k}) }

// run sends frames until ctx ends or a write fails. It gives back all that it acquired.
func (s *stream) run(ctx context.Context) error {
	defer func() {
		for k := range s.uses {
			s.watches.release(k, s)
		}
	}()
	heartbeat := time.NewTimer(0)
	defer heartbeat.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-heartbeat.C:
			if err := s.write(&subresourcesv1alpha1.PodObjectsFrame{Type: subresourcesv1alpha1.HeartbeatFrame}); err != nil {
				return err
			}
		case <-s.queue.wake:
			for i, ok := s.queue.take(); ok && ctx.Err() == nil; i, ok = s.queue.take() {
				if err := s.look(i); err != nil {
					return err
				}
			}
		}
		heartbeat.Reset(subresourcesv1alpha1.HeartbeatSeconds * time.Second)
	}
}

// look sends the present state of what i names.
func (s *stream) look(i item) error {
	switch {
	case i.pod != "":
		if err := s.lookAtPod(i.pod); err != nil {
			return err
		}
	case i.object.kind == serviceAccountKind:
		for uid, pod := range s.bound {
			if pod.account == i.object {
				if err := s.lookAtPod(uid); err != nil {
					return err
				}
			}
		}
	case i.object.kind != "":
		return s.sendObject(i.object)
	default:
		s.listed = true
	}
	return s.sendSynced()
}

// lookAtPod brings what is acquired for a pod, and what the node knows of it, to the pod's state.
func (s *stream) lookAtPod(uid types.UID) error {
	pod, exists := s.pods.get(uid)
	known := s.bound[uid]
	if !exists {
		if known == nil {
			return nil
		}
		delete(s.bound, uid)
		s.release(known)
		if !known.sent {
			return nil
		}
		return s.write(&subresourcesv1alpha1.PodObjectsFrame{
			Type: subresourcesv1alpha1.PodGoneFrame,
			Pod:  &subresourcesv1alpha1.PodReferences{PodIdentity: known.refs.PodIdentity},
		})
	}

	now := &boundPod{}
	var account *corev1.ServiceAccount
	ready := true
	if pod.account != "" {
		now.account = key{serviceAccountKind, pod.refs.Namespace, pod.account}
		s.acquire(now.account)
		var current metav1.Object
		current, ready = s.watches.get(now.account)
		account, _ = current.(*corev1.ServiceAccount)
	}
	now.refs = subresourcesv1alpha1.PodReferences{PodIdentity: pod.refs.PodIdentity}
	if ready {
		now.refs = pod.with(account)
	}
	for _, k := range keysOf(now.refs) {
		s.acquire(k)
	}
	s.bound[uid] = now
	if known != nil {
		now.sent = known.sent
		s.release(known)
	}
	if !ready || known != nil && known.sent && equalReferences(known.refs, now.refs) {
		return nil
	}
	now.sent = true
	return s.write(&subresourcesv1alpha1.PodObjectsFrame{Type: subresourcesv1alpha1.PodFrame, Pod: &now.refs})
}

// sendObject sends an object's state, when a pod still needs it and it is known.
func (s *stream) sendObject(k key) error {
	if s.uses[k] == 0 {
		return nil
	}
	current, known := s.watches.get(k)
	if !known {
		return nil
	}
	state := &subresourcesv1alpha1.ObjectState{
		Kind: subresourcesv1alpha1.ObjectKind(k.kind), Namespace: k.namespace, Name: k.name,
	}
	switch o := current.(type) {
	case *corev1.Secret:
		state.Secret = &corev1.Secret{ObjectMeta: strippedMeta(o), Data: o.Data, Type: o.Type, Immutable: o.Immutable}
	case *corev1.ConfigMap:
		state.ConfigMap = &corev1.ConfigMap{ObjectMeta: strippedMeta(o), Data: o.Data, BinaryData: o.BinaryData, Immutable: o.Immutable}
	}
	return s.write(&subresourcesv1alpha1.PodObjectsFrame{Type: subresourcesv1alpha1.ObjectFrame, Object: state})
}

// sendSynced sends the Synced frame once, when every pod of the first list has been told.
func (s *stream) sendSynced() error {
	if s.synced || !s.listed {
		return nil
	}
	for _, pod := range s.bound {
		if !pod.sent {
			return nil
		}
	}
	s.synced = true
	return s.write(&subresourcesv1alpha1.PodObjectsFrame{Type: subresourcesv1alpha1.SyncedFrame})
}

func (s *stream) acquire(k key) {
	s.uses[k]++
	if s.uses[k] == 1 {
		s.watches.acquire(k, s)
	}
}

func (s *stream) release(pod *boundPod) {
	keys := keysOf(pod.refs)
	if pod.account.kind != "" {
		keys = append(keys, pod.account)
	}
	for _, k := range keys {
		if s.uses[k]--; s.uses[k] == 0 {
			delete(s.uses, k)
			s.watches.release(k, s)
		}
	}
}

// strippedMeta leaves of an object's metadata what a node needs; annotations may repeat a Secret's data.
func strippedMeta(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
	}
}

func equalReferences(a, b subresourcesv1alpha1.PodReferences) bool {
	return a.PodIdentity == b.PodIdentity && slices.Equal(a.Secrets, b.Secrets) &&
		slices.Equal(a.ConfigMaps, b.ConfigMaps) && slices.Equal(a.PullSecrets, b.PullSecrets)
}

// podStore receives what the reflector of a node's pods sees. Pods that have ended for good count as
// gone: nothing of them will be started again.
type podStore struct {
	queue *queue

	mu   sync.Mutex
	pods map[types.UID]needs
}

var _ cache.ReflectorStore = &podStore{}

func (p *podStore) get(uid types.UID) (needs, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, ok := p.pods[uid]
	return n, ok
}

func (p *podStore) Add(obj any) error    { p.set(obj.(*dcorev1.Pod)); return nil }
func (p *podStore) Update(obj any) error { p.set(obj.(*dcorev1.Pod)); return nil }
func (p *podStore) Resync() error        { return nil }

func (p *podStore) Delete(obj any) error {
	pod := obj.(*dcorev1.Pod)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pods, pod.UID)
	p.queue.add(item{pod: pod.UID})
	return nil
}

// Replace ends with the item that marks the end of a list; only the first one of a stream matters.
func (p *podStore) Replace(list []any, _ string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := p.pods
	p.pods = make(map[types.UID]needs, len(list))
	for _, obj := range list {
		p.setLocked(obj.(*dcorev1.Pod))
	}
	for uid := range gone {
		p.queue.add(item{pod: uid})
	}
	p.queue.add(item{})
	return nil
}

func (p *podStore) set(pod *dcorev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setLocked(pod)
}

func (p *podStore) setLocked(pod *dcorev1.Pod) {
	if podutil.IsPodPhaseTerminal(pod.Status.Phase) {
		delete(p.pods, pod.UID)
	} else {
		p.pods[pod.UID] = needsOf(upstream.Pod(pod))
	}
	p.queue.add(item{pod: pod.UID})
}
