package clientcerts

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"time"

	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

const (
	// lifetime is how long an answer is repeated: as long as upstream remembers tokens.
	lifetime = 10 * time.Second
	// bound is how many answers are remembered, a few KiB each.
	bound = 4096
)

// Remember returns an authenticator that repeats next's answers to certificates for ten seconds. authorities returns the
// bundle that next verifies against at the moment.
//
// TLS has proved for each connection that the client holds the key of its certificate. What is remembered is whom the
// certificate speaks for, which follows from its bytes, the authorities and the time alone. So an answer is repeated only
// for the same bytes, under the same authorities and before the certificate ends; that an authority's own certificate
// ends may be noticed ten seconds late. Refusals are never remembered, nor answers that follow from anything else
// (tokens, headers), nor certificates that come with intermediates, since a chain's other links may end sooner.
func Remember(next authenticator.Request, authorities func() []byte) authenticator.Request {
	return remember(next, authorities, time.Now)
}

func remember(next authenticator.Request, authorities func() []byte, now clock) *memory {
	return &memory{next: next, authorities: authorities, now: now, answers: utilcache.NewLRUExpireCacheWithClock(bound, now)}
}

type memory struct {
	next        authenticator.Request
	authorities func() []byte
	now         clock
	// answers by the fingerprint of the certificate.
	answers *utilcache.LRUExpireCache
}

// clock is the time of the cache.
type clock func() time.Time

// Now returns the time.
func (c clock) Now() time.Time { return c() }

// answer is what was said, and under which authorities.
type answer struct {
	response    *authenticator.Response
	authorities []byte
}

// AuthenticateRequest says whom a request is from.
func (m *memory) AuthenticateRequest(request *http.Request) (*authenticator.Response, bool, error) {
	if request.TLS == nil || len(request.TLS.PeerCertificates) != 1 {
		return m.next.AuthenticateRequest(request)
	}
	certificate := request.TLS.PeerCertificates[0]
	fingerprint := sha256.Sum256(certificate.Raw)
	// Read before next verifies: what it says under newer authorities is then taken for an answer under older ones,
	// and dropped.
	authorities := m.authorities()
	if value, ok := m.answers.Get(fingerprint); ok {
		known := value.(answer)
		if bytes.Equal(known.authorities, authorities) && !m.now().After(certificate.NotAfter) {
			return known.response, true, nil
		}
	}
	response, ok, err := m.next.AuthenticateRequest(request)
	if err == nil && ok && follows(response, fingerprint) {
		m.answers.Add(fingerprint, answer{response, authorities}, lifetime)
	}
	return response, ok, err
}

// follows tells whether an answer follows from the certificate: upstream names the credential in it.
func follows(response *authenticator.Response, fingerprint [sha256.Size]byte) bool {
	return slices.Equal(response.User.GetExtra()[user.CredentialIDKey], []string{"X509SHA256=" + hex.EncodeToString(fingerprint[:])})
}
