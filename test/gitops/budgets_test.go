package gitops_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dpolicyv1 "drayage.dev/apis/policy/v1"
)

func budget(namespace, name string, least intstr.IntOrString) *dpolicyv1.PodDisruptionBudget {
	return &dpolicyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &least, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
	}
}

// computed creates a budget and waits until the controller has said how it is doing.
func computed(ctx context.Context, b *dpolicyv1.PodDisruptionBudget, ready metav1.ConditionStatus) *dpolicyv1.PodDisruptionBudget {
	GinkgoHelper()
	create(ctx, b)
	Eventually(reading(b)).WithContext(ctx).Should(HaveField("Status.Conditions",
		ContainElement(And(HaveField("Type", dpolicyv1.PodDisruptionBudgetReady), HaveField("Status", ready)))))
	return b
}

var budgetPhases = map[string]makePhase{
	"poddisruptionbudget-new": func(ctx context.Context, namespace, name string) client.Object {
		return created(ctx, budget(namespace, name, intstr.FromInt32(1)))
	},
	"poddisruptionbudget-computed": func(ctx context.Context, namespace, name string) client.Object {
		return computed(ctx, budget(namespace, name, intstr.FromInt32(1)), metav1.ConditionTrue)
	},
	"poddisruptionbudget-uncountable": func(ctx context.Context, namespace, name string) client.Object {
		// A share of what? Nobody says how many pods of this controller there are to be.
		p := pod(namespace, name)
		p.Labels = map[string]string{"app": name}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps.drayage.dev/v1", Kind: "ReplicaSet", Name: "gone", UID: "gone", Controller: ptr.To(true)}}
		create(ctx, p)
		return computed(ctx, budget(namespace, name, intstr.FromString("50%")), metav1.ConditionFalse)
	},
	"poddisruptionbudget-terminating": func(ctx context.Context, namespace, name string) client.Object {
		return deleted(ctx, computed(ctx, budget(namespace, name, intstr.FromInt32(1)), metav1.ConditionTrue))
	},
}
