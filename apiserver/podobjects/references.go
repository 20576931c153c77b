package podobjects

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

// defaultServiceAccount runs pods that name none, as upstream's admission would write into them.
const defaultServiceAccount = "default"

// needs is what the broker keeps of a pod: what its spec refers to.
type needs struct {
	refs subresourcesv1alpha1.PodReferences
	// account names the service account whose pull secrets the pod uses; empty when the pod has its
	// own. Admission copies the account's into a pod that is created; they are read again here, so
	// that a pull secret added to the account later helps a pod that cannot pull.
	account string
}

// needsOf returns all that pod refers to.
func needsOf(pod *corev1.Pod) needs {
	secrets, configMaps := map[string]bool{}, map[string]bool{}
	podutil.VisitPodSecretNames(pod, func(name string) bool { secrets[name] = true; return true })
	podutil.VisitPodConfigmapNames(pod, func(name string) bool { configMaps[name] = true; return true })
	n := needs{refs: subresourcesv1alpha1.PodReferences{
		PodIdentity: subresourcesv1alpha1.PodIdentity{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Secrets:     slices.Sorted(maps.Keys(secrets)),
		ConfigMaps:  slices.Sorted(maps.Keys(configMaps)),
		PullSecrets: namesOf(pod.Spec.ImagePullSecrets),
	}}
	if len(n.refs.PullSecrets) == 0 {
		n.account = accountOf(pod)
	}
	return n
}

// accountOf returns the name of the service account that pod runs as.
func accountOf(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName == "" {
		return defaultServiceAccount
	}
	return pod.Spec.ServiceAccountName
}

// with returns the references of a pod whose service account is account, which may be nil.
func (n needs) with(account *corev1.ServiceAccount) subresourcesv1alpha1.PodReferences {
	refs := n.refs
	if n.account == "" || account == nil {
		return refs
	}
	refs.PullSecrets = namesOf(account.ImagePullSecrets)
	refs.Secrets = slices.Concat(refs.Secrets, refs.PullSecrets)
	slices.Sort(refs.Secrets)
	refs.Secrets = slices.Compact(refs.Secrets)
	return refs
}

func namesOf(references []corev1.LocalObjectReference) []string {
	var names []string
	for _, reference := range references {
		if reference.Name != "" {
			names = append(names, reference.Name)
		}
	}
	return names
}

// keysOf returns the objects to watch for a pod with these references.
func keysOf(refs subresourcesv1alpha1.PodReferences) []key {
	keys := make([]key, 0, len(refs.Secrets)+len(refs.ConfigMaps))
	for _, name := range refs.Secrets {
		keys = append(keys, key{secretKind, refs.Namespace, name})
	}
	for _, name := range refs.ConfigMaps {
		keys = append(keys, key{configMapKind, refs.Namespace, name})
	}
	return keys
}
