package admission

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/kubernetes/pkg/serviceaccount"
	serviceaccountadmission "k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"
	"k8s.io/utils/ptr"
)

// rootCAConfigMap is the config map with the cluster's CA that upstream's publisher keeps in every
// namespace.
const rootCAConfigMap = "kube-root-ca.crt"

// useServiceAccount does to a new pod what upstream's ServiceAccount admission plugin does: the account
// "default" where none is named, the projected token volume unless pod or account decline it, and the
// account's pull secrets where the pod has none.
func useServiceAccount(ctx context.Context, pod *corev1.Pod, lookup Lookup) field.ErrorList {
	if pod.Spec.ServiceAccountName == "" {
		// Conversion treats the deprecated name as the same field.
		pod.Spec.ServiceAccountName = pod.Spec.DeprecatedServiceAccount
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = serviceaccountadmission.DefaultServiceAccountName
	}
	path := field.NewPath("spec", "serviceAccountName")
	account, err := lookup.ServiceAccount(ctx, pod.Namespace, pod.Spec.ServiceAccountName)
	switch {
	case apierrors.IsNotFound(err):
		err = apierrors.NewNotFound(corev1.Resource("serviceaccount"), pod.Spec.ServiceAccountName) // upstream's words
		return refuse(path, fmt.Sprintf("error looking up service account %s/%s: %v", pod.Namespace, pod.Spec.ServiceAccountName, err))
	case err != nil:
		return field.ErrorList{field.InternalError(path, fmt.Errorf("error looking up service account %s/%s: %w", pod.Namespace, pod.Spec.ServiceAccountName, err))}
	}
	if enforced, _ := strconv.ParseBool(account.Annotations[serviceaccountadmission.EnforceMountableSecretsAnnotation]); enforced {
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("the annotation %s of a service account is %s", serviceaccountadmission.EnforceMountableSecretsAnnotation, notImplemented))}
	}
	if wantsToken(pod, account) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		for _, secret := range account.ImagePullSecrets {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: secret.Name})
		}
	}
	return nil
}

func wantsToken(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken mounts the token at its usual path in every container that has nothing mounted there, and
// adds the volume if a container wants it and the pod brings none.
func mountToken(pod *corev1.Pod) {
	const prefix = serviceaccountadmission.ServiceAccountVolumeName + "-"
	name := ""
	for i := range pod.Spec.Volumes {
		if strings.HasPrefix(pod.Spec.Volumes[i].Name, prefix) {
			name = pod.Spec.Volumes[i].Name
			break
		}
	}
	present := name != ""
	if !present {
		name = names.SimpleNameGenerator.GenerateName(prefix)
	}
	wanted := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if mounts(&containers[i], serviceaccountadmission.DefaultAPITokenMountPath) {
				continue
			}
			containers[i].VolumeMounts = append(containers[i].VolumeMounts, corev1.VolumeMount{
				Name: name, ReadOnly: true, MountPath: serviceaccountadmission.DefaultAPITokenMountPath,
			})
			wanted = true
		}
	}
	if wanted && !present {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenVolume()}})
	}
}

// keepToken puts back the token volume and its mounts, as creation made them, where an update leaves them
// out: clients that do not know the kind (kubectl apply) replace lists with what the manifest has, and no pod
// may lose a volume anyway.
func keepToken(pod, old *corev1.Pod) {
	const path = serviceaccountadmission.DefaultAPITokenMountPath
	is := func(v corev1.Volume) bool {
		return strings.HasPrefix(v.Name, serviceaccountadmission.ServiceAccountVolumeName+"-")
	}
	at := slices.IndexFunc(old.Spec.Volumes, is)
	if at < 0 {
		return
	}
	volume := old.Spec.Volumes[at]
	if !slices.ContainsFunc(pod.Spec.Volumes, is) {
		pod.Spec.Volumes = slices.Insert(pod.Spec.Volumes, min(at, len(pod.Spec.Volumes)), *volume.DeepCopy())
	}
	for _, lists := range [][2][]corev1.Container{{pod.Spec.InitContainers, old.Spec.InitContainers}, {pod.Spec.Containers, old.Spec.Containers}} {
		containers, before := lists[0], lists[1]
		for i := range containers {
			had := slices.IndexFunc(before, func(c corev1.Container) bool { return c.Name == containers[i].Name })
			if had < 0 || mounts(&containers[i], path) {
				continue
			}
			for at, mount := range before[had].VolumeMounts {
				if mount.Name == volume.Name && mount.MountPath == path {
					containers[i].VolumeMounts = slices.Insert(containers[i].VolumeMounts, min(at, len(containers[i].VolumeMounts)), mount)
				}
			}
		}
	}
}

func mounts(container *corev1.Container, path string) bool {
	for i := range container.VolumeMounts {
		if container.VolumeMounts[i].MountPath == path {
			return true
		}
	}
	return false
}

// tokenVolume is the external form of upstream's TokenVolumeSource.
func tokenVolume() *corev1.ProjectedVolumeSource {
	return &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Path:              corev1.ServiceAccountTokenKey,
				ExpirationSeconds: ptr.To[int64](serviceaccount.WarnOnlyBoundTokenExpirationSeconds),
			}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: corev1.ServiceAccountRootCAKey, Path: corev1.ServiceAccountRootCAKey}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{
				Items: []corev1.DownwardAPIVolumeFile{{
					Path:     corev1.ServiceAccountNamespaceKey,
					FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
				}},
			}},
		},
	}
}
