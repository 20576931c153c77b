package admission_test

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiadmission "k8s.io/apiserver/pkg/admission"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	podregistry "k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds"
	"k8s.io/kubernetes/plugin/pkg/admission/priority"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"

	"drayage.dev/internal/admission"
)

// oracle is the way of a pod through upstream's API server: defaults, the three admission plugins that
// Prepare stands for, and the registry's strategy.
type oracle struct {
	plugins []apiadmission.MutationInterface
}

func newOracle(lookup *fakeLookup) *oracle {
	GinkgoHelper()
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	for _, c := range lookup.classes {
		Expect(factory.Scheduling().V1().PriorityClasses().Informer().GetStore().Add(c)).To(Succeed())
	}
	for _, a := range lookup.accounts {
		Expect(factory.Core().V1().ServiceAccounts().Informer().GetStore().Add(a)).To(Succeed())
	}
	accounts := serviceaccount.NewServiceAccount()
	accounts.SetExternalKubeClientSet(client)
	accounts.SetExternalKubeInformerFactory(factory)
	tolerations := defaulttolerationseconds.NewDefaultTolerationSeconds()
	tolerations.InspectFeatureGates(utilfeature.DefaultFeatureGate)
	priorities := priority.NewPlugin()
	priorities.SetExternalKubeClientSet(client)
	priorities.SetExternalKubeInformerFactory(factory)
	return &oracle{plugins: []apiadmission.MutationInterface{accounts, tolerations, priorities}}
}

func (o *oracle) admit(ctx context.Context, pod, old *core.Pod) error {
	operation, before := apiadmission.Create, runtime.Object(nil)
	if old != nil {
		operation, before = apiadmission.Update, old
	}
	attributes := apiadmission.NewAttributesRecord(pod, before, corev1.SchemeGroupVersion.WithKind("Pod"), pod.Namespace, pod.Name,
		corev1.SchemeGroupVersion.WithResource("pods"), "", operation, nil, false, nil)
	for _, plugin := range o.plugins {
		if !plugin.Handles(operation) {
			continue
		}
		if err := plugin.Admit(ctx, attributes, nil); err != nil {
			return err
		}
	}
	return nil
}

// create returns what upstream stores for pod.
func (o *oracle) create(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	pod = pod.DeepCopy()
	internal := toInternal(pod, &core.Pod{})
	if err := o.admit(ctx, internal, nil); err != nil {
		return nil, err
	}
	rest.FillObjectMetaSystemFields(internal)
	if internal.Name == "" && internal.GenerateName != "" {
		internal.Name = podregistry.Strategy.GenerateName(internal.GenerateName)
	}
	if err := rest.BeforeCreate(podregistry.Strategy, genericrequest.WithNamespace(ctx, pod.Namespace), internal); err != nil {
		return nil, err
	}
	return pod, legacyscheme.Scheme.Convert(internal, pod, nil)
}

// update returns what upstream stores for a change of old to pod.
func (o *oracle) update(ctx context.Context, pod, old *corev1.Pod) (*corev1.Pod, error) {
	pod = pod.DeepCopy()
	internal, before := toInternal(pod, &core.Pod{}), toInternal(old.DeepCopy(), &core.Pod{})
	if err := o.admit(ctx, internal, before); err != nil {
		return nil, err
	}
	if err := rest.BeforeUpdate(podregistry.Strategy, genericrequest.WithNamespace(ctx, pod.Namespace), internal, before); err != nil {
		return nil, err
	}
	return pod, legacyscheme.Scheme.Convert(internal, pod, nil)
}

// toInternal decodes as upstream's API server does: with defaults.
func toInternal[T runtime.Object](object runtime.Object, internal T) T {
	GinkgoHelper()
	legacyscheme.Scheme.Default(object)
	Expect(legacyscheme.Scheme.Convert(object, internal, nil)).To(Succeed())
	return internal
}

// generatedName matches what differs between two runs: names of token volumes and of pods.
var generatedName = regexp.MustCompile(`(kube-api-access|[Ww]eb)-[a-z0-9]{5}\b`)

// normal makes what differs between two runs alike: generated names and what is the API server's.
func normal(pod *corev1.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.TypeMeta = metav1.TypeMeta{}
	pod.ObjectMeta = metav1.ObjectMeta{Namespace: pod.Namespace, Labels: pod.Labels, Annotations: pod.Annotations}
	for i := range pod.Spec.Volumes {
		pod.Spec.Volumes[i].Name = generatedName.ReplaceAllString(pod.Spec.Volumes[i].Name, "$1-x")
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for j := range containers[i].VolumeMounts {
				m := &containers[i].VolumeMounts[j]
				m.Name = generatedName.ReplaceAllString(m.Name, "$1-x")
			}
		}
	}
	// Conditions carry the time.
	for i := range pod.Status.Conditions {
		pod.Status.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	return pod
}

// onlyUpstreams drops the errors about what Drayage does not implement.
func onlyUpstreams(errs field.ErrorList) field.ErrorList {
	return errs.Filter(func(err error) bool { return strings.Contains(err.Error(), "not implemented by Drayage yet") })
}

// same says whether two objects are equal to the API, as upstream compares them.
func same(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }

type strategies interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

// store returns what upstream's strategy stores for obj, created where old is nil.
func store(ctx context.Context, strategy strategies, obj, old admission.Object, internal func() runtime.Object) (admission.Object, error) {
	GinkgoHelper()
	ctx = genericrequest.WithNamespace(ctx, obj.GetNamespace())
	obj = obj.DeepCopyObject().(admission.Object)
	is := toInternal(obj, internal())
	if old == nil {
		accessor, err := meta.Accessor(is)
		Expect(err).NotTo(HaveOccurred())
		rest.FillObjectMetaSystemFields(accessor)
		if err := rest.BeforeCreate(strategy, ctx, is); err != nil {
			return obj, err
		}
	} else if err := rest.BeforeUpdate(strategy, ctx, is, toInternal(old.DeepCopyObject(), internal())); err != nil {
		return obj, err
	}
	return obj, legacyscheme.Scheme.Convert(is, obj, nil)
}

// explain returns the field errors behind an API error, sorted, or the whole of any other error. Names of
// groups and what is generated are left out.
func explain(err error) []string {
	GinkgoHelper()
	if err == nil {
		return nil
	}
	var status apierrors.APIStatus
	Expect(errors.As(err, &status)).To(BeTrue(), "%v", err)
	tell := strings.NewReplacer("pods.core.drayage.dev", "pods").Replace
	if !apierrors.IsInvalid(err) {
		return []string{tell(err.Error())}
	}
	var out []string
	for _, c := range status.Status().Details.Causes {
		out = append(out, generatedName.ReplaceAllString(c.Field+": "+c.Message, "$1-x"))
	}
	return tidy(out)
}

// errorSet is the same of a list of errors.
func errorSet(errs field.ErrorList) []string {
	var out []string
	for _, err := range errs {
		out = append(out, err.Field+": "+err.ErrorBody())
	}
	return tidy(out)
}

// tidy sorts, and drops what two layers of upstream's both say.
func tidy(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
