package objects

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

// silence is how long a stream may be quiet before it is taken for dead: three missed heartbeats.
const silence = 3 * subresourcesv1alpha1.HeartbeatSeconds * time.Second

// newBackoff spaces the attempts to reach the control plane. A server that restarts is back in seconds,
// so the first attempts come quickly; the jitter keeps a cluster's nodes from coming all at once.
func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 8, Cap: 10 * time.Second}
}

// Run keeps the stream open until ctx ends.
func (c *Client) Run(ctx context.Context) {
	log := logr.FromContextOrDiscard(ctx).WithName("podobjects")
	backoff := newBackoff()
	for ctx.Err() == nil {
		begun, err := c.read(ctx)
		if ctx.Err() != nil {
			return
		}
		if begun {
			backoff = newBackoff()
		}
		log.Info("lost the stream of pods' objects, keeping the last state", "reason", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(backoff.Step()):
		}
	}
}

// read opens a stream and applies its frames until it breaks. It reports whether it began.
func (c *Client) read(ctx context.Context) (begun bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(fmt.Errorf("no frame for %s", silence)) })
	defer watchdog.Stop()
	defer func() {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
	}()

	body, err := c.rest.Get().Resource(subresourcesv1alpha1.NodesResource).Name(c.config.Node).
		SubResource(subresourcesv1alpha1.PodObjectsSubresource).Stream(ctx)
	if err != nil {
		return false, fmt.Errorf("opening the stream: %w", err)
	}
	defer body.Close()

	c.mu.Lock()
	c.stream++
	c.mu.Unlock()
	decoder := json.NewDecoder(body)
	for {
		var frame subresourcesv1alpha1.PodObjectsFrame
		if err := decoder.Decode(&frame); err != nil {
			return begun, fmt.Errorf("reading a frame: %w", withoutData(err))
		}
		begun = true
		watchdog.Reset(silence)
		if changed := c.apply(&frame); len(changed) > 0 && c.config.Changed != nil {
			c.config.Changed(changed)
		}
	}
}

// withoutData keeps errors of the decoder from quoting what may be a secret: a type error names the
// value that it could not read.
func withoutData(err error) error {
	if typeError := (*json.UnmarshalTypeError)(nil); errors.As(err, &typeError) {
		return fmt.Errorf("field %q has an unexpected type", typeError.Field)
	}
	return err
}

// apply takes one frame in and returns the pods that have to look again.
func (c *Client) apply(frame *subresourcesv1alpha1.PodObjectsFrame) []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	if frame.Type != subresourcesv1alpha1.HeartbeatFrame {
		close(c.news)
		c.news = make(chan struct{})
	}
	switch {
	case frame.Type == subresourcesv1alpha1.PodFrame && frame.Pod != nil:
		return c.setPod(*frame.Pod)
	case frame.Type == subresourcesv1alpha1.PodGoneFrame && frame.Pod != nil:
		c.dropPod(frame.Pod.UID)
	case frame.Type == subresourcesv1alpha1.ObjectFrame && frame.Object != nil:
		return c.setObject(*frame.Object)
	case frame.Type == subresourcesv1alpha1.SyncedFrame:
		for uid, p := range c.pods {
			if p.stream != c.stream {
				c.dropPod(uid)
			}
		}
	}
	return nil
}

// setPod makes refs the references of a pod.
func (c *Client) setPod(refs subresourcesv1alpha1.PodReferences) []types.UID {
	before := c.pods[refs.UID]
	c.pods[refs.UID] = &pod{refs: refs, stream: c.stream}
	for _, k := range keysOf(refs) {
		o, ok := c.objects[k]
		if !ok {
			o = &object{pods: map[types.UID]struct{}{}}
			c.objects[k] = o
		}
		o.pods[refs.UID] = struct{}{}
	}
	if before == nil {
		return nil
	}
	now := keysOf(refs)
	for _, k := range keysOf(before.refs) {
		if !slices.Contains(now, k) {
			c.unuse(k, refs.UID)
		}
	}
	if slices.Equal(now, keysOf(before.refs)) && slices.Equal(refs.PullSecrets, before.refs.PullSecrets) {
		return nil
	}
	return []types.UID{refs.UID}
}

func (c *Client) dropPod(uid types.UID) {
	if p, ok := c.pods[uid]; ok {
		delete(c.pods, uid)
		for _, k := range keysOf(p.refs) {
			c.unuse(k, uid)
		}
	}
	c.tokens.drop(uid)
}

func (c *Client) unuse(k objectKey, uid types.UID) {
	o, ok := c.objects[k]
	if !ok {
		return
	}
	delete(o.pods, uid)
	if len(o.pods) == 0 {
		delete(c.objects, k)
	}
}

// setObject makes state the state of an object, and returns the pods for which that is a change.
func (c *Client) setObject(state subresourcesv1alpha1.ObjectState) []types.UID {
	o, ok := c.objects[objectKey{state.Kind, state.Namespace, state.Name}]
	if !ok {
		return nil
	}
	changed := o.known && versionOf(o.state) != versionOf(state)
	o.known, o.state = true, state
	if !changed {
		return nil
	}
	return slices.Collect(maps.Keys(o.pods))
}

// version tells two states of an object apart; that of an absent one is empty.
type version struct {
	uid             types.UID
	resourceVersion string
}

func versionOf(state subresourcesv1alpha1.ObjectState) version {
	var meta metav1.Object
	switch {
	case state.Secret != nil:
		meta = state.Secret
	case state.ConfigMap != nil:
		meta = state.ConfigMap
	default:
		return version{}
	}
	return version{meta.GetUID(), meta.GetResourceVersion()}
}

func keysOf(refs subresourcesv1alpha1.PodReferences) []objectKey {
	keys := make([]objectKey, 0, len(refs.Secrets)+len(refs.ConfigMaps))
	for _, name := range refs.Secrets {
		keys = append(keys, objectKey{subresourcesv1alpha1.SecretKind, refs.Namespace, name})
	}
	for _, name := range refs.ConfigMaps {
		keys = append(keys, objectKey{subresourcesv1alpha1.ConfigMapKind, refs.Namespace, name})
	}
	return keys
}
