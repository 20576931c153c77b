package join

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// BootstrappersGroup is the group that a join token puts its bearer into, beside upstream's
// system:bootstrappers. Its members may ask for a node's client certificate and nothing else.
const BootstrappersGroup = "system:bootstrappers:drayage:join"

// Token is what a machine needs to join: Kubernetes' bootstrap token and the pin of the cluster's authority.
type Token struct {
	// ID names the token and is no secret.
	ID string
	// Secret proves it.
	Secret string
	// Pin is the SHA-256 sum of the authority's public key.
	Pin [sha256.Size]byte
}

var tokenPattern = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})\.([0-9a-f]{64})$`)

// ErrTokenFormat says that a string is no join token.
var ErrTokenFormat = errors.New("a join token has the form <id>.<secret>.<pin>, as `dray token create` prints it")

// NewToken draws a token for a cluster with the given authority.
func NewToken(authority *x509.Certificate) (Token, error) {
	id, err := draw(6)
	if err != nil {
		return Token{}, err
	}
	secret, err := draw(16)
	return Token{ID: id, Secret: secret, Pin: pinOf(authority)}, err
}

// ParseToken reads a token in the form that String writes. Its error never repeats the secret.
func ParseToken(s string) (Token, error) {
	match := tokenPattern.FindStringSubmatch(strings.TrimSpace(s))
	if match == nil {
		return Token{}, ErrTokenFormat
	}
	t := Token{ID: match[1], Secret: match[2]}
	_, err := hex.Decode(t.Pin[:], []byte(match[3]))
	return t, err
}

// String is the token as people copy it.
func (t Token) String() string { return t.Bearer() + "." + hex.EncodeToString(t.Pin[:]) }

// Bearer is the part that the API server knows.
func (t Token) Bearer() string { return t.ID + "." + t.Secret }

// Pins tells whether the token was made for a cluster with this authority.
func (t Token) Pins(authority *x509.Certificate) bool {
	sum := pinOf(authority)
	return subtle.ConstantTimeCompare(t.Pin[:], sum[:]) == 1
}

func pinOf(authority *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(authority.RawSubjectPublicKeyInfo)
}

func draw(length int) (string, error) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, length)
	for i := range out {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return "", fmt.Errorf("drawing a token: %w", err)
		}
		out[i] = alphabet[n.Int64()]
	}
	return string(out), nil
}
