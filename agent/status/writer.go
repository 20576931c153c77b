package status

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/util/workqueue"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
)

const (
	// writers is how many patches are under way at a time.
	writers = 8
	// settle is how long a difference that will soon be overtaken waits for the next one: a pod that
	// starts within it is patched once.
	settle = 750 * time.Millisecond
)

// Writer writes statuses of this node's pods. Of several statuses of one pod that come while none can be
// written, the last one wins.
type Writer struct {
	client client.Client
	queue  workqueue.TypedRateLimitingInterface[types.UID]

	mu      sync.Mutex
	records map[types.UID]*record
}

type record struct {
	// base is the newest version of the pod that is known, be it from the watch or our own patch.
	base    *dcorev1.Pod
	desired corev1.PodStatus
	wanted  bool
}

// NewWriter returns a Writer that uses client; nothing is written before Run.
func NewWriter(client client.Client) *Writer {
	return &Writer{
		client: client, records: map[types.UID]*record{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](200*time.Millisecond, 30*time.Second)),
	}
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	var workers sync.WaitGroup
	for range writers {
		workers.Go(func() {
			for {
				uid, shutdown := w.queue.Get()
				if shutdown {
					return
				}
				if err := w.write(ctx, uid); err != nil && ctx.Err() == nil {
					logr.FromContextOrDiscard(ctx).V(1).Info("Status not written, trying again", "uid", uid, "err", err.Error())
					w.queue.AddRateLimited(uid)
				} else {
					w.queue.Forget(uid)
				}
				w.queue.Done(uid)
			}
		})
	}
	<-ctx.Done()
	w.queue.ShutDown()
	workers.Wait()
}

// Observe tells of a version of a pod that the watch delivered. When it differs from what was last asked
// for, because another writer has changed what is ours, it is written again.
func (w *Writer) Observe(pod *dcorev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.records[pod.UID]
	if r == nil {
		r = &record{}
		w.records[pod.UID] = r
	}
	if older(pod, r.base) {
		return
	}
	r.base = pod
	if r.wanted && differs(&pod.Status.PodStatus, &r.desired) {
		w.queue.AddAfter(pod.UID, settle)
	}
}

// older says that a is an earlier version of the object than b.
func older(a, b *dcorev1.Pod) bool {
	if b == nil {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order < 0
}

// Set asks for a status to be written: at once when it tells of a container's or the pod's progress,
// a moment later when it tells of mere waiting.
func (w *Writer) Set(pod types.UID, status corev1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.records[pod]
	if r == nil || (r.wanted && equality.Semantic.DeepEqual(r.desired, status)) {
		return
	}
	r.desired, r.wanted = status, true
	if waits(r.base, &status) {
		w.queue.AddAfter(pod, settle)
	} else {
		w.queue.Add(pod)
	}
}

// Touch has the pod's summary brought up to date a moment later, for changes of the object itself, such as
// its deletion, that no status tells of.
func (w *Writer) Touch(pod types.UID) { w.queue.AddAfter(pod, settle) }

// waits says that a status shows nothing that a user could be in a hurry for: the pod is still pending,
// and no container of it has come to a state worth telling.
func waits(base *dcorev1.Pod, status *corev1.PodStatus) bool {
	if status.Phase != corev1.PodPending || base == nil || base.Status.Phase != status.Phase {
		return false
	}
	for _, container := range slices.Concat(status.InitContainerStatuses, status.ContainerStatuses) {
		if waiting := container.State.Waiting; waiting != nil && waiting.Reason != ContainerCreating && waiting.Reason != PodInitializing {
			return false
		}
	}
	return true
}

// Flush writes what Set last asked for, if it is not written yet. A pod that is gone is no error.
func (w *Writer) Flush(ctx context.Context, pod types.UID) error { return w.write(ctx, pod) }

// Latest returns the newest version of the pod that is known, or nil.
func (w *Writer) Latest(pod types.UID) *dcorev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.records[pod]; r != nil {
		return r.base
	}
	return nil
}

// Forget drops what is known of a pod.
func (w *Writer) Forget(pod types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.records, pod)
}

// write patches the pod's status until it is what was last asked for.
func (w *Writer) write(ctx context.Context, uid types.UID) error {
	for range 5 {
		w.mu.Lock()
		r := w.records[uid]
		if r == nil || !r.wanted || r.base == nil {
			w.mu.Unlock()
			return nil
		}
		base, desired := r.base, r.desired
		w.mu.Unlock()
		patch, err := patchOf(base, desired)
		if err != nil || patch == nil {
			return err
		}
		written := &dcorev1.Pod{}
		written.Namespace, written.Name = base.Namespace, base.Name
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		err = w.client.Status().Patch(ctx, written, client.RawPatch(types.MergePatchType, patch))
		if apierrors.IsConflict(err) {
			// Another writer was faster: look again, live.
			err = w.client.Get(ctx, client.ObjectKeyFromObject(base), written)
			if err == nil && written.UID != uid {
				err = apierrors.NewNotFound(dcorev1.Resource("pods"), base.Name)
			}
		}
		cancel()
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("writing status of pod %s/%s: %w", base.Namespace, base.Name, err)
		}
		w.mu.Lock()
		if r := w.records[uid]; r != nil && !older(written, r.base) {
			r.base = written
		}
		w.mu.Unlock()
	}
	return fmt.Errorf("writing status of pod %s: others keep changing it", uid)
}

// patchOf returns the merge patch that turns base's status into the desired one, others' conditions kept;
// nil when there is nothing to change. It carries the resource version, since lists are replaced whole.
func patchOf(base *dcorev1.Pod, desired corev1.PodStatus) ([]byte, error) {
	merged := desired
	merged.Conditions = withScheduled(merge(base.Status.Conditions, desired.Conditions))
	// Fields of others.
	merged.NominatedNodeName = base.Status.NominatedNodeName
	merged.Resize, merged.EphemeralContainerStatuses = base.Status.Resize, base.Status.EphemeralContainerStatuses
	merged.ResourceClaimStatuses = base.Status.ResourceClaimStatuses
	shown := *upstream.Pod(base)
	shown.Status = merged
	summary, err := Summary(&shown)
	if err != nil {
		return nil, err
	}
	before, err := json.Marshal(map[string]any{"status": base.Status})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(map[string]any{"status": dcorev1.PodStatus{PodStatus: merged, Summary: summary}})
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.CreateMergePatch(before, after)
	if err != nil || string(patch) == "{}" {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(patch, &fields); err != nil {
		return nil, err
	}
	fields["metadata"] = map[string]any{"uid": base.UID, "resourceVersion": base.ResourceVersion}
	return json.Marshal(fields)
}

// withScheduled says that the pod has found a node, as a kubelet does: the scheduler leaves this write to the
// agent's first report, which comes anyway.
func withScheduled(conditions []corev1.PodCondition) []corev1.PodCondition {
	_, known := podutil.GetPodConditionFromList(conditions, corev1.PodScheduled)
	if known != nil && known.Status == corev1.ConditionTrue {
		return conditions
	}
	scheduled := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now().Rfc3339Copy(),
	}
	others := slices.DeleteFunc(slices.Clone(conditions), func(had corev1.PodCondition) bool { return had.Type == corev1.PodScheduled })
	return append(others, scheduled)
}

// merge keeps the conditions of others in their order and replaces ours, which may also be gone.
func merge(base, own []corev1.PodCondition) []corev1.PodCondition {
	merged := slices.DeleteFunc(slices.Clone(base), func(had corev1.PodCondition) bool {
		return owned[had.Type] && !slices.ContainsFunc(own, func(c corev1.PodCondition) bool { return c.Type == had.Type })
	})
	for _, condition := range own {
		at := slices.IndexFunc(merged, func(c corev1.PodCondition) bool { return c.Type == condition.Type })
		if at < 0 {
			merged = append(merged, condition)
		} else {
			merged[at] = condition
		}
	}
	return merged
}

// differs says whether what is the agent's in a status is not what it asked for.
func differs(have, want *corev1.PodStatus) bool {
	if have.Phase != want.Phase || have.PodIP != want.PodIP || !equality.Semantic.DeepEqual(have.ContainerStatuses, want.ContainerStatuses) ||
		!equality.Semantic.DeepEqual(have.InitContainerStatuses, want.InitContainerStatuses) {
		return true
	}
	return !equality.Semantic.DeepEqual(have.Conditions, merge(have.Conditions, want.Conditions))
}
