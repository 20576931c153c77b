package objects

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"

	"drayage.dev/agent"
)

// defaultWait is how long a call waits for something that the control plane has not sent yet.
const defaultWait = 10 * time.Second

// Config is what New needs to know.
type Config struct {
	// REST reaches the API server as the node's identity.
	REST *rest.Config
	// Node is the node's name.
	Node string
	// Changed is told the pods that refer to an object that has changed, appeared or disappeared after
	// it was known. It is called from the client's one goroutine and must not block. Optional.
	Changed func(pods []types.UID)
	// Wait bounds how long a call waits for what has not been sent yet. Default: ten seconds.
	Wait time.Duration
}

// Client holds the objects of this node's pods. Its methods may be called from any goroutine; nothing
// arrives before Run is called.
type Client struct {
	config Config
	rest   rest.Interface
	tokens tokenCache

	mu sync.Mutex
	// news is closed, and replaced, whenever the state below changes.
	news    chan struct{}
	pods    map[types.UID]*pod
	objects map[objectKey]*object
	// stream counts the streams that have begun.
	stream int
}

var _ agent.PodObjects = &Client{}

// pod is one pod as the control plane last described it.
type pod struct {
	refs subresourcesv1alpha1.PodReferences
	// stream is the last one that named the pod.
	stream int
}

type objectKey struct {
	kind            subresourcesv1alpha1.ObjectKind
	namespace, name string
}

// object is one object that some pod refers to; it lives for as long as one does.
type object struct {
	pods  map[types.UID]struct{}
	known bool
	state subresourcesv1alpha1.ObjectState
}

// New returns a client that has nothing yet.
func New(config Config) (*Client, error) {
	if config.Wait == 0 {
		config.Wait = defaultWait
	}
	rc := rest.CopyConfig(config.REST)
	rc.APIPath, rc.GroupVersion = "/apis", &subresourcesv1alpha1.GroupVersion
	rc.ContentType, rc.AcceptContentTypes = "application/json", "application/json"
	rc.NegotiatedSerializer = serializer.WithoutConversionCodecFactory{CodecFactory: scheme.Codecs}
	rc.Timeout = 0 // a stream has no end
	client, err := rest.RESTClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("making the client of pods' objects: %w", err)
	}
	return &Client{
		config: config, rest: client, tokens: tokenCache{entries: map[tokenKey]*tokenEntry{}},
		news: make(chan struct{}), pods: map[types.UID]*pod{}, objects: map[objectKey]*object{},
	}, nil
}

// Secret returns the Secret name of the namespace of pod, which must refer to it. The result is shared:
// it must not be changed. It waits for what has not been sent yet, for at most Config.Wait. Errors:
// NotFound when the control plane has said that there is none, Forbidden when the pod does not refer to
// it, and others when nothing is known in time.
func (c *Client) Secret(ctx context.Context, pod types.UID, name string) (*corev1.Secret, error) {
	state, err := c.object(ctx, pod, subresourcesv1alpha1.SecretKind, name)
	if err != nil {
		return nil, err
	}
	if state.Secret == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
	}
	return state.Secret, nil
}

// ConfigMap returns the ConfigMap name of the namespace of pod, as Secret does.
func (c *Client) ConfigMap(ctx context.Context, pod types.UID, name string) (*corev1.ConfigMap, error) {
	state, err := c.object(ctx, pod, subresourcesv1alpha1.ConfigMapKind, name)
	if err != nil {
		return nil, err
	}
	if state.ConfigMap == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
	}
	return state.ConfigMap, nil
}

// PullSecrets returns the names of the Secrets that hold pod's credentials for image pulls: its own or,
// when it names none, its service account's. Secret returns each of them.
func (c *Client) PullSecrets(ctx context.Context, pod types.UID) ([]string, error) {
	refs, err := c.references(ctx, pod)
	return refs.PullSecrets, err
}

// errWaiting says that what was asked for has not been sent yet.
var errWaiting = errors.New("the control plane has not sent it yet")

// object waits until the state of an object that a pod refers to is known.
func (c *Client) object(ctx context.Context, uid types.UID, kind subresourcesv1alpha1.ObjectKind, name string) (subresourcesv1alpha1.ObjectState, error) {
	var state subresourcesv1alpha1.ObjectState
	err := c.await(ctx, func() error {
		p, ok := c.pods[uid]
		if !ok {
			return errWaiting
		}
		o, ok := c.objects[objectKey{kind, p.refs.Namespace, name}]
		if ok {
			_, ok = o.pods[uid]
		}
		if !ok {
			return apierrors.NewForbidden(resourceOf(kind), name, fmt.Errorf("pod %s/%s does not refer to it", p.refs.Namespace, p.refs.Name))
		}
		if !o.known {
			return errWaiting
		}
		state = o.state
		return nil
	})
	if errors.Is(err, errWaiting) {
		err = fmt.Errorf("reading %s %q of pod %s: %w", kind, name, uid, err)
	}
	return state, err
}

// references waits until a pod is known.
func (c *Client) references(ctx context.Context, uid types.UID) (subresourcesv1alpha1.PodReferences, error) {
	var refs subresourcesv1alpha1.PodReferences
	err := c.await(ctx, func() error {
		p, ok := c.pods[uid]
		if !ok {
			return errWaiting
		}
		refs = p.refs
		return nil
	})
	if err != nil {
		err = fmt.Errorf("reading the references of pod %s: %w", uid, err)
	}
	return refs, err
}

// await calls look, under the lock, whenever something is new, until it returns anything but errWaiting.
func (c *Client) await(ctx context.Context, look func() error) error {
	timeout := time.NewTimer(c.config.Wait)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		news, err := c.news, look()
		c.mu.Unlock()
		if !errors.Is(err, errWaiting) {
			return err
		}
		select {
		case <-news:
		case <-timeout.C:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errWaiting, ctx.Err())
		}
	}
}

func resourceOf(kind subresourcesv1alpha1.ObjectKind) schema.GroupResource {
	if kind == subresourcesv1alpha1.SecretKind {
		return corev1.Resource("secrets")
	}
	return corev1.Resource("configmaps")
}
