package join

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstrapsecrets "k8s.io/cluster-bootstrap/util/secrets"
)

// Stored is a token as the cluster keeps it, without its secret.
type Stored struct {
	// ID names the token.
	ID string `json:"id"`
	// Description is what its maker noted.
	Description string `json:"description,omitempty"`
	// Expires is when it ends; zero for never.
	Expires time.Time `json:"expires,omitzero"`
}

// StoreToken makes a token valid for a time; zero means until it is deleted. Storing the same again changes
// nothing.
func StoreToken(ctx context.Context, client kubernetes.Interface, token Token, lifetime time.Duration, description string) error {
	data := map[string]string{
		bootstrapapi.BootstrapTokenIDKey:               token.ID,
		bootstrapapi.BootstrapTokenSecretKey:           token.Secret,
		bootstrapapi.BootstrapTokenUsageAuthentication: "true",
		bootstrapapi.BootstrapTokenExtraGroupsKey:      BootstrappersGroup,
		bootstrapapi.BootstrapTokenDescriptionKey:      description,
	}
	if lifetime > 0 {
		data[bootstrapapi.BootstrapTokenExpirationKey] = time.Now().Add(lifetime).UTC().Format(time.RFC3339)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: secretName(token.ID)},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		StringData: data,
	}
	_, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, secret, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("storing the token %s: %w", token.ID, err)
	}
	return nil
}

// ListTokens returns the join tokens that are valid.
func ListTokens(ctx context.Context, client kubernetes.Interface) ([]Stored, error) {
	secrets, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken)).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("listing tokens: %w", err)
	}
	tokens := []Stored{}
	for i := range secrets.Items {
		secret := &secrets.Items[i]
		if bootstrapsecrets.GetData(secret, bootstrapapi.BootstrapTokenExtraGroupsKey) != BootstrappersGroup || bootstrapsecrets.HasExpired(secret, time.Now()) {
			continue
		}
		stored := Stored{
			ID:          bootstrapsecrets.GetData(secret, bootstrapapi.BootstrapTokenIDKey),
			Description: bootstrapsecrets.GetData(secret, bootstrapapi.BootstrapTokenDescriptionKey),
		}
		if expires := bootstrapsecrets.GetData(secret, bootstrapapi.BootstrapTokenExpirationKey); expires != "" {
			if stored.Expires, err = time.Parse(time.RFC3339, expires); err != nil {
				return nil, fmt.Errorf("reading the token %s: %w", stored.ID, err)
			}
		}
		tokens = append(tokens, stored)
	}
	return tokens, nil
}

// DeleteToken ends a token. Machines that joined with it stay.
func DeleteToken(ctx context.Context, client kubernetes.Interface, id string) error {
	err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, secretName(id), metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting the token %s: there is no such token: `dray token list` shows those there are", id)
	}
	if err != nil {
		return fmt.Errorf("deleting the token %s: %w", id, err)
	}
	return nil
}

func secretName(id string) string { return bootstrapapi.BootstrapTokenSecretPrefix + id }
