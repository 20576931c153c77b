package quota

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
	"k8s.io/kubernetes/pkg/quota/v1/evaluator/core"
	"k8s.io/kubernetes/pkg/quota/v1/install"
	"k8s.io/utils/clock"

	dcorev1 "drayage.dev/apis/core/v1"
)

// plainCounts are the resources whose number a quota bounds by their plain name, too.
var plainCounts = []string{"configmaps", "secrets", "resourcequotas"}

// evaluators are those of pods, services and plainCounts; of other kinds upstream counts the objects. client
// lists what is there and cached what informers have; admission, which lists nothing, has neither.
func evaluators(client dynamic.Interface, cached quota.ListerForResourceFunc) []quota.Evaluator {
	pods, services := dcorev1.GroupVersion.WithResource("pods"), dcorev1.GroupVersion.WithResource("services")
	pod := func() runtime.Object { return &corev1.Pod{} }
	service := func() runtime.Object { return &corev1.Service{} }
	from := func(resource schema.GroupVersionResource, object func() runtime.Object) quota.ListerForResourceFunc {
		return func(schema.GroupVersionResource) (cache.GenericLister, error) {
			return lister{client: client, resource: resource, object: object}, nil
		}
	}
	all := []quota.Evaluator{
		evaluator{core.NewPodEvaluator(from(pods, pod), clock.RealClock{}), pods.GroupResource(), pod},
		evaluator{core.NewServiceEvaluator(from(services, service)), services.GroupResource(), service},
	}
	for _, name := range plainCounts {
		resource := corev1.SchemeGroupVersion.WithResource(name)
		all = append(all, generic.NewObjectCountEvaluator(resource.GroupResource(),
			generic.ListResourceUsingListerFunc(cached, resource), corev1.ResourceName(name)))
	}
	return all
}

// Admission makes the API server's quota plugin count by Drayage's kinds in place of upstream's.
func Admission() admission.PluginInitializer {
	return initialize{generic.NewConfiguration(evaluators(nil, nil), install.DefaultIgnoredResources())}
}

type initialize struct{ quota.Configuration }

func (i initialize) Initialize(plugin admission.Interface) {
	if wants, ok := plugin.(initializer.WantsQuotaConfiguration); ok {
		wants.SetQuotaConfiguration(i.Configuration)
	}
}

// evaluator is upstream's, for a resource that is upstream's in all but its group.
type evaluator struct {
	quota.Evaluator
	resource schema.GroupResource
	object   func() runtime.Object
}

var _ quota.Evaluator = evaluator{}

// converted is an object of Drayage's in upstream's type.
func converted(from runtime.Object, into runtime.Object) (runtime.Object, error) {
	custom, ok := from.(*unstructured.Unstructured)
	if !ok {
		return from, nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(custom.Object, into); err != nil {
		return nil, fmt.Errorf("reading %s %s for its quota: %w", custom.GetKind(), custom.GetName(), err)
	}
	return into, nil
}

// GroupResource implements quota.Evaluator.
func (e evaluator) GroupResource() schema.GroupResource { return e.resource }

// counts are the names by which a quota bounds the number of objects: upstream's, and that which upstream has
// for a custom resource.
func (e evaluator) counts() (upstream, own corev1.ResourceName) {
	return generic.ObjectCountQuotaResourceNameFor(e.Evaluator.GroupResource()), generic.ObjectCountQuotaResourceNameFor(e.resource)
}

// Constraints implements quota.Evaluator.
func (e evaluator) Constraints(required []corev1.ResourceName, item runtime.Object) error {
	object, err := converted(item, e.object())
	if err != nil {
		return err
	}
	return e.Evaluator.Constraints(required, object)
}

// Handles implements quota.Evaluator. Of a pod nothing that is counted changes once it is there.
func (e evaluator) Handles(a admission.Attributes) bool {
	if _, isPod := e.object().(*corev1.Pod); isPod && a.GetOperation() != admission.Create {
		return false
	}
	return e.Evaluator.Handles(a)
}

// Matches implements quota.Evaluator.
func (e evaluator) Matches(resourceQuota *corev1.ResourceQuota, item runtime.Object) (bool, error) {
	object, err := converted(item, e.object())
	if err != nil {
		return false, err
	}
	upstream, own := e.counts()
	if _, found := resourceQuota.Status.Hard[own]; found {
		// Upstream's looks for names that it knows.
		resourceQuota = resourceQuota.DeepCopy()
		resourceQuota.Status.Hard[upstream] = resourceQuota.Status.Hard[own]
	}
	return e.Evaluator.Matches(resourceQuota, object)
}

// MatchingScopes implements quota.Evaluator.
func (e evaluator) MatchingScopes(item runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	object, err := converted(item, e.object())
	if err != nil {
		return nil, err
	}
	return e.Evaluator.MatchingScopes(object, scopes)
}

// MatchingResources implements quota.Evaluator.
func (e evaluator) MatchingResources(input []corev1.ResourceName) []corev1.ResourceName {
	matching := e.Evaluator.MatchingResources(input)
	if _, own := e.counts(); slices.Contains(input, own) {
		matching = append(matching, own)
	}
	return matching
}

// Usage implements quota.Evaluator.
func (e evaluator) Usage(item runtime.Object) (corev1.ResourceList, error) {
	object, err := converted(item, e.object())
	if err != nil {
		return nil, err
	}
	usage, err := e.Evaluator.Usage(object)
	if upstream, own := e.counts(); err == nil {
		usage[own] = usage[upstream]
	}
	return usage, err
}

// UsageStats implements quota.Evaluator.
func (e evaluator) UsageStats(options quota.UsageStatsOptions) (quota.UsageStats, error) {
	upstream, own := e.counts()
	asked := options.Resources
	if slices.Contains(asked, own) {
		options.Resources = append(slices.Clone(asked), upstream)
	}
	stats, err := e.Evaluator.UsageStats(options)
	if err == nil && slices.Contains(asked, own) {
		stats.Used[own] = stats.Used[upstream]
		stats.Used = quota.Mask(stats.Used, asked)
	}
	return stats, err
}

// lister lists a namespace's objects from the API server, in upstream's type. Quotas are few, and nothing else
// in this process needs all pods.
type lister struct {
	client    dynamic.Interface
	resource  schema.GroupVersionResource
	object    func() runtime.Object
	namespace string
}

// ByNamespace implements cache.GenericLister.
func (l lister) ByNamespace(namespace string) cache.GenericNamespaceLister {
	l.namespace = namespace
	return l
}

// List implements cache.GenericLister.
func (l lister) List(selector labels.Selector) ([]runtime.Object, error) {
	var objects []runtime.Object
	pages := pager.New(pager.SimplePageFunc(func(options metav1.ListOptions) (runtime.Object, error) {
		return l.client.Resource(l.resource).Namespace(l.namespace).List(context.Background(), options)
	}))
	err := pages.EachListItem(context.Background(), metav1.ListOptions{LabelSelector: selector.String()}, func(item runtime.Object) error {
		object, err := converted(item, l.object())
		objects = append(objects, object)
		return err
	})
	return objects, err
}

// Get implements cache.GenericLister.
func (l lister) Get(name string) (runtime.Object, error) {
	item, err := l.client.Resource(l.resource).Namespace(l.namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return converted(item, l.object())
}
