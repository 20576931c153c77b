package volumes

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"
)

const (
	// maxTokenAge and remainder are kubelet's: a token is renewed when a fifth of its life is left, and
	// at the latest after a day.
	maxTokenAge = 24 * time.Hour
	remainder   = 5
	// renewalJitter spreads the renewals of pods that started together: up to a tenth of a token's life
	// earlier.
	renewalJitter = 0.1
	// retryRenewal is when a renewal that failed is tried again, while the old token is still good.
	retryRenewal = 10 * time.Second
)

// tokens keeps the service-account tokens of mounted pods until they want renewal. It holds what the
// volumes of live pods use, no more: Unmount drops a pod's.
type tokens struct {
	objects Objects
	clock   clock.PassiveClock

	mu    sync.Mutex
	byPod map[types.UID]map[string]token
}

type token struct {
	response *authv1.TokenRequest
	renew    time.Time
}

func newTokens(objects Objects, clock clock.PassiveClock) *tokens {
	return &tokens{objects: objects, clock: clock, byPod: map[types.UID]map[string]token{}}
}

// get returns the token that was minted for such a request, or a new one when it is time. When none can
// be had the old one serves until it expires.
func (t *tokens) get(ctx context.Context, pod types.UID, request *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	key := fmt.Sprint(strings.Join(request.Spec.Audiences, "\n"), "\n", seconds(request))
	now := t.clock.Now()
	t.mu.Lock()
	old, found := t.byPod[pod][key]
	t.mu.Unlock()
	if found && now.Before(old.renew) {
		return old.response, nil
	}
	response, err := t.objects.Token(ctx, pod, request)
	if err != nil {
		if !found {
			return nil, fmt.Errorf("failed to fetch token: %w", err) // kubelet's words
		}
		if now.After(old.response.Status.ExpirationTimestamp.Time) {
			return nil, fmt.Errorf("token expired and refresh failed: %w", err)
		}
		t.set(pod, key, token{old.response, now.Add(retryRenewal)})
		return old.response, nil
	}
	t.set(pod, key, token{response, renewalOf(now, response)})
	return response, nil
}

func (t *tokens) set(pod types.UID, key string, value token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byPod[pod] == nil {
		t.byPod[pod] = map[string]token{}
	}
	t.byPod[pod][key] = value
}

// renewal is when the first of the pod's tokens wants renewal; zero when it has none.
func (t *tokens) renewal(pod types.UID) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next time.Time
	for _, value := range t.byPod[pod] {
		if next.IsZero() || value.renew.Before(next) {
			next = value.renew
		}
	}
	return next
}

func (t *tokens) forget(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byPod, pod)
}

// renewalOf says when a token that was minted now wants renewal. What counts is the life that it was
// given, not the one that was asked for.
func renewalOf(now time.Time, response *authv1.TokenRequest) time.Time {
	life := response.Status.ExpirationTimestamp.Sub(now)
	after := min(life-life/remainder, maxTokenAge)
	return now.Add(after - wait.Jitter(after, renewalJitter) + after)
}

func seconds(request *authv1.TokenRequest) int64 {
	if request.Spec.ExpirationSeconds == nil {
		return 0
	}
	return *request.Spec.ExpirationSeconds
}
