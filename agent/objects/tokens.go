package objects

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/types"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

// tokenTimeout bounds one request for a token.
const tokenTimeout = 10 * time.Second

// tokenKey names a token by what was asked for.
type tokenKey struct {
	pod       types.UID
	audiences string
	seconds   int64
}

// tokenCache holds the newest token of each kind for each pod. Volumes ask for their token again every
// minute or so; the control plane is asked when four fifths of its life are over, as kubelet does.
type tokenCache struct {
	mu      sync.Mutex
	entries map[tokenKey]*tokenEntry
}

type tokenEntry struct {
	token   *authenticationv1.TokenRequest
	refresh time.Time
}

func (t *tokenCache) get(key tokenKey) *tokenEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.entries[key]
}

func (t *tokenCache) set(key tokenKey, entry *tokenEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries[key] = entry
}

// drop forgets a pod's tokens.
func (t *tokenCache) drop(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.entries {
		if key.pod == pod {
			delete(t.entries, key)
		}
	}
}

// Token returns a token of the service account that pod runs as: audiences and expiration as request
// says, the expiration shortened to an hour by the control plane. While the control plane is away, a
// token that has not run out is returned even when it is due for renewal. The result is shared: it must
// not be changed.
func (c *Client) Token(ctx context.Context, pod types.UID, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	audiences := slices.Clone(request.Spec.Audiences)
	slices.Sort(audiences)
	key := tokenKey{pod: pod, audiences: strings.Join(audiences, "\x00")}
	if request.Spec.ExpirationSeconds != nil {
		key.seconds = *request.Spec.ExpirationSeconds
	}
	now := time.Now()
	cached := c.tokens.get(key)
	if cached != nil && now.Before(cached.refresh) {
		return cached.token, nil
	}
	token, err := c.mint(ctx, pod, request.Spec)
	if err != nil {
		if cached != nil && now.Before(cached.token.Status.ExpirationTimestamp.Time) {
			logr.FromContextOrDiscard(ctx).Info("kept a service account token that is due for renewal", "pod", pod, "reason", err.Error())
			return cached.token, nil
		}
		return nil, err
	}
	life := token.Status.ExpirationTimestamp.Sub(now)
	c.keep(key, &tokenEntry{token: token, refresh: now.Add(life * 4 / 5)})
	return token, nil
}

// keep remembers a token, unless its pod has gone meanwhile: nobody would drop it again.
func (c *Client) keep(key tokenKey, entry *tokenEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pods[key.pod]; ok {
		c.tokens.set(key, entry)
	}
}

// mint asks the control plane for a token.
func (c *Client) mint(ctx context.Context, pod types.UID, spec authenticationv1.TokenRequestSpec) (*authenticationv1.TokenRequest, error) {
	refs, err := c.references(ctx, pod)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(subresourcesv1alpha1.PodTokenRequest{Pod: refs.PodIdentity, Spec: spec})
	if err != nil {
		return nil, fmt.Errorf("requesting a token for pod %s/%s: %w", refs.Namespace, refs.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	answer, err := c.rest.Post().Resource(subresourcesv1alpha1.NodesResource).Name(c.config.Node).
		SubResource(subresourcesv1alpha1.PodTokensSubresource).SetHeader("Content-Type", "application/json").
		Body(body).Do(ctx).Raw()
	if err != nil {
		return nil, fmt.Errorf("requesting a token for pod %s/%s: %w", refs.Namespace, refs.Name, err)
	}
	token := &authenticationv1.TokenRequest{}
	if err := json.Unmarshal(answer, token); err != nil || token.Status.Token == "" {
		// The answer holds a credential, so nothing of it may end in the message.
		return nil, fmt.Errorf("requesting a token for pod %s/%s: the answer is no token", refs.Namespace, refs.Name)
	}
	return token, nil
}
