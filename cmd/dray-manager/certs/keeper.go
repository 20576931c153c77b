package certs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"

	"drayage.dev/controlplane/pki"
)

// What the authorities are kept and published in.
const (
	// SecretName is the Secret of the authorities, keys included.
	SecretName = "drayage-ca"
	// ConfigMapName is the ConfigMap that tells agents whom to trust, under the key ca.crt.
	ConfigMapName = "drayage-ca"
)

// The files in a keeper's directory. Certificate and key share a file, so that both change at once.
const (
	// ServingFile is the serving certificate with its key.
	ServingFile = "serving.pem"
	// ClientFile is the client certificate towards nodes with its key.
	ClientFile = "client.pem"
	// CAFile holds all trusted authorities.
	CAFile = "ca.crt"
)

const (
	// clientUser is the identity towards nodes, whose agents take no other.
	clientUser = "drayage:apiserver"

	// period is how often the Secret and whom the cluster trusts are looked at.
	period = time.Minute
)

// Config is what a Keeper needs.
type Config struct {
	// Client reaches the API server.
	Client *rest.Config
	// Namespace holds the Secret and the ConfigMap.
	Namespace string
	// Dir is where this process keeps its certificates. It is made if it is missing.
	Dir string
	// ServingNames are the DNS names that this process is reached by. Without any, others make the serving
	// certificate and tell the cluster to trust it.
	ServingNames []string
	// Now is the clock; the system's when nil.
	Now func() time.Time
}

// Keeper keeps one process's certificates.
type Keeper struct {
	config  Config
	client  kubernetes.Interface
	objects dynamic.Interface

	mutex   sync.Mutex
	signing *pki.Authority
}

// New returns a keeper. It does nothing until Ensure or Run.
func New(config Config) (*Keeper, error) {
	client, err := kubernetes.NewForConfig(config.Client)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(config.Client)
	if err != nil {
		return nil, err
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Keeper{config: config, client: client, objects: objects}, nil
}

// Path returns the path of one of the keeper's files.
func (k *Keeper) Path(file string) string { return filepath.Join(k.config.Dir, file) }

// Ensure brings everything up to date once: authorities, this process's files, whom the cluster trusts. After
// it the files are there.
func (k *Keeper) Ensure(ctx context.Context) error {
	current, err := k.authorities(ctx)
	if err != nil {
		return err
	}
	if err := k.writeFiles(current); err != nil {
		return err
	}
	k.mutex.Lock()
	k.signing = current.signing
	k.mutex.Unlock()
	if len(k.config.ServingNames) == 0 {
		return k.publish(ctx, current.bundle())
	}
	return errors.Join(k.publish(ctx, current.bundle()), k.register(ctx, current.bundle()))
}

// Authority returns the authority that signs now; nil before the first Ensure.
func (k *Keeper) Authority() *pki.Authority {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	return k.signing
}

// Run repeats Ensure until the context ends. A pass that fails is logged and repeated: what was made before
// stays good for months.
func (k *Keeper) Run(ctx context.Context) error {
	for ticker := time.NewTicker(period); ; {
		select {
		case <-ctx.Done():
			ticker.Stop()
			return nil
		case <-ticker.C:
			if err := k.Ensure(ctx); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Keeping certificates failed, trying again", "in", period)
			}
		}
	}
}

// authorities returns the authorities as they should be now, after storing what changed.
func (k *Keeper) authorities(ctx context.Context) (current authorities, err error) {
	secrets := k.client.CoreV1().Secrets(k.config.Namespace)
	conflict := func(err error) bool {
		return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
	}
	err = retry.OnError(retry.DefaultBackoff, conflict, func() error {
		secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
		missing := apierrors.IsNotFound(err)
		if err != nil && !missing {
			return err
		}
		if missing {
			secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: k.config.Namespace, Name: SecretName}}
		}
		if current, err = parse(secret.Data); err != nil {
			return fmt.Errorf("%w (delete the Secret, and the managers make a new one)", err)
		}
		var changed bool
		if current, changed, err = current.advance(k.config.Now()); err != nil || !changed {
			return err
		}
		if secret.Data, err = current.data(); err != nil {
			return err
		}
		if missing {
			_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
		} else {
			_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
		}
		return err
	})
	if err != nil {
		return current, fmt.Errorf("keeping the certificate authority in the Secret %s/%s: %w", k.config.Namespace, SecretName, err)
	}
	return current, nil
}

// writeFiles writes the trusted authorities, and renews this process's certificates that are old or were
// signed by another authority. Who serves and connects by them follows the files.
func (k *Keeper) writeFiles(current authorities) error {
	if err := pki.WriteFile(k.Path(CAFile), current.bundle(), 0o644); err != nil {
		return fmt.Errorf("writing the trusted authorities: %w", err)
	}
	now := k.config.Now()
	issue := map[string]func() (cert, key []byte, err error){
		ClientFile: func() (cert, key []byte, err error) {
			return current.signing.IssueClient(pki.Identity{User: clientUser})
		},
	}
	if len(k.config.ServingNames) > 0 {
		issue[ServingFile] = func() (cert, key []byte, err error) {
			return current.signing.IssueServing("drayage-manager", k.config.ServingNames, now)
		}
	}
	for file, issue := range issue {
		if fresh(k.Path(file), current.signing, now) {
			continue
		}
		cert, key, err := issue()
		if err != nil {
			return err
		}
		if err := pki.WriteFile(k.Path(file), append(cert, key...), 0o600); err != nil {
			return fmt.Errorf("writing a certificate: %w", err)
		}
	}
	return nil
}

func fresh(path string, signing *pki.Authority, now time.Time) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	certs, err := certutil.ParseCertsPEM(data)
	return err == nil && !aged(certs[0], now) && certs[0].CheckSignatureFrom(signing.Certificate()) == nil
}
