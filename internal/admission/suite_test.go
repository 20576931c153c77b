package admission_test

import (
	"context"
	"io"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

func TestAdmission(t *testing.T) {
	RegisterFailHandler(Fail)
	// Upstream's validation logs what its two ways of validating say differently.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	RunSpecs(t, "internal/admission")
}

// fakeLookup holds what pods may refer to.
type fakeLookup struct {
	classes  []*schedulingv1.PriorityClass
	accounts []*corev1.ServiceAccount
}

func (f *fakeLookup) PriorityClass(_ context.Context, name string) (*schedulingv1.PriorityClass, error) {
	for _, c := range f.classes {
		if c.Name == name {
			return c, nil
		}
	}
	return nil, apierrors.NewNotFound(schedulingv1.Resource("priorityclasses"), name)
}

func (f *fakeLookup) DefaultPriorityClass(context.Context) (found *schedulingv1.PriorityClass, err error) {
	for _, c := range f.classes {
		if c.GlobalDefault && (found == nil || found.Value > c.Value) {
			found = c
		}
	}
	return found, nil
}

func (f *fakeLookup) ServiceAccount(_ context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	for _, a := range f.accounts {
		if a.Namespace == namespace && a.Name == name {
			return a, nil
		}
	}
	return nil, apierrors.NewNotFound(corev1.Resource("serviceaccounts"), name)
}

// testNamespace has the accounts "default", "tokenless" and "puller".
const testNamespace = "shop"

func newLookup() *fakeLookup {
	account := func(name string) *corev1.ServiceAccount {
		return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: name}}
	}
	tokenless, puller := account("tokenless"), account("puller")
	tokenless.AutomountServiceAccountToken = ptr.To(false)
	puller.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
	return &fakeLookup{
		classes: []*schedulingv1.PriorityClass{
			{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000, PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority)},
			{ObjectMeta: metav1.ObjectMeta{Name: "patient"}, Value: 500, PreemptionPolicy: ptr.To(corev1.PreemptNever)},
			{ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2000001000, PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority)},
		},
		accounts: []*corev1.ServiceAccount{account("default"), tokenless, puller},
	}
}

// newPod returns the smallest pod that may be created.
func newPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: "web", Labels: map[string]string{"app": "web", "tier": "front"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
	}
}
