package scheduler

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// groupSuffix is what Drayage's groups have behind upstream's.
const groupSuffix = ".drayage.dev"

var (
	kinds      = scheme.New()
	codecs     = serializer.NewCodecFactory(kinds).WithoutConversion()
	parameters = runtime.NewParameterCodec(kinds)
)

// restFor returns a typed client of one of Drayage's groups.
func restFor(config *rest.Config, version schema.GroupVersion) (rest.Interface, error) {
	config = rest.CopyConfig(config)
	config.GroupVersion = &version
	config.APIPath = "/apis"
	config.NegotiatedSerializer = wire{codecs}
	// Custom resources have no other encoding that pays.
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("building a client for %s: %w", version, err)
	}
	return client, nil
}

// newInformers returns the informers that the framework and its plugins ask for. Kinds of Drayage's are
// listed under upstream's types, kinds without a counterpart are empty, and what every API server has
// (namespaces) comes as it is, through client.
func newInformers(client kubernetes.Interface, core, apps, policy rest.Interface) informers.SharedInformerFactory {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(dropManagedFields))

	pods := &source{
		api: core, resource: "pods",
		list: func() runtime.Object { return &dcorev1.PodList{} },
		view: func(o runtime.Object) runtime.Object { return podView(o.(*dcorev1.Pod)) },
		into: func(m metav1.ListMeta, items []runtime.Object) runtime.Object {
			return &corev1.PodList{ListMeta: m, Items: values[corev1.Pod](items)}
		},
		hide: func(o runtime.Object) bool { return ended(&o.(*dcorev1.Pod).Status.PodStatus) },
	}
	nodes := &source{
		api: core, resource: "nodes",
		list: func() runtime.Object { return &dcorev1.NodeList{} },
		view: func(o runtime.Object) runtime.Object { return nodeView(o.(*dcorev1.Node)) },
		into: func(m metav1.ListMeta, items []runtime.Object) runtime.Object {
			return &corev1.NodeList{ListMeta: m, Items: values[corev1.Node](items)}
		},
	}
	services := &source{
		api: core, resource: "services",
		list: func() runtime.Object { return &dcorev1.ServiceList{} },
		view: func(o runtime.Object) runtime.Object { return upstream.Service(o.(*dcorev1.Service)) },
		into: func(m metav1.ListMeta, items []runtime.Object) runtime.Object {
			return &corev1.ServiceList{ListMeta: m, Items: values[corev1.Service](items)}
		},
	}
	replicaSets := &source{
		api: apps, resource: "replicasets",
		list: func() runtime.Object { return &dappsv1.ReplicaSetList{} },
		view: func(o runtime.Object) runtime.Object { return upstream.ReplicaSet(o.(*dappsv1.ReplicaSet)) },
		into: func(m metav1.ListMeta, items []runtime.Object) runtime.Object {
			return &appsv1.ReplicaSetList{ListMeta: m, Items: values[appsv1.ReplicaSet](items)}
		},
	}
	budgets := &source{
		api: policy, resource: "poddisruptionbudgets",
		list: func() runtime.Object { return &dpolicyv1.PodDisruptionBudgetList{} },
		view: func(o runtime.Object) runtime.Object {
			return upstream.PodDisruptionBudget(o.(*dpolicyv1.PodDisruptionBudget))
		},
		into: func(m metav1.ListMeta, items []runtime.Object) runtime.Object {
			return &policyv1.PodDisruptionBudgetList{ListMeta: m, Items: values[policyv1.PodDisruptionBudget](items)}
		},
	}
	inform(factory, &corev1.Pod{}, pods.listWatch())
	inform(factory, &corev1.Node{}, nodes.listWatch())
	inform(factory, &corev1.Service{}, services.listWatch())
	inform(factory, &appsv1.ReplicaSet{}, replicaSets.listWatch())
	inform(factory, &policyv1.PodDisruptionBudget{}, budgets.listWatch())

	inform(factory, &corev1.ReplicationController{}, nothing(&corev1.ReplicationControllerList{}))
	inform(factory, &appsv1.StatefulSet{}, nothing(&appsv1.StatefulSetList{}))
	inform(factory, &corev1.PersistentVolume{}, nothing(&corev1.PersistentVolumeList{}))
	inform(factory, &corev1.PersistentVolumeClaim{}, nothing(&corev1.PersistentVolumeClaimList{}))
	inform(factory, &storagev1.StorageClass{}, nothing(&storagev1.StorageClassList{}))
	inform(factory, &storagev1.CSINode{}, nothing(&storagev1.CSINodeList{}))
	inform(factory, &storagev1.CSIDriver{}, nothing(&storagev1.CSIDriverList{}))
	inform(factory, &storagev1.CSIStorageCapacity{}, nothing(&storagev1.CSIStorageCapacityList{}))
	inform(factory, &storagev1.VolumeAttachment{}, nothing(&storagev1.VolumeAttachmentList{}))
	inform(factory, &resourcev1.ResourceClaim{}, nothing(&resourcev1.ResourceClaimList{}))
	inform(factory, &resourcev1.ResourceSlice{}, nothing(&resourcev1.ResourceSliceList{}))
	inform(factory, &resourcev1.DeviceClass{}, nothing(&resourcev1.DeviceClassList{}))
	return factory
}

func inform(factory informers.SharedInformerFactory, kind runtime.Object, from cache.ListerWatcher) {
	factory.InformerFor(kind, func(_ kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
		return cache.NewSharedIndexInformer(from, kind, resync,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	})
}

// podView is a pod as the framework sees it. It keeps Drayage's apiVersion, which is where events find
// what they are about; controllers are named as upstream names them, which is how plugins find the
// ReplicaSet behind a pod. It shares p's memory and changes p's owner references.
func podView(p *dcorev1.Pod) *corev1.Pod {
	pod := upstream.Pod(p)
	pod.APIVersion = dcorev1.GroupVersion.String()
	for i := range pod.OwnerReferences {
		owner := &pod.OwnerReferences[i]
		if group, version, ok := strings.Cut(owner.APIVersion, groupSuffix+"/"); ok {
			owner.APIVersion = group + "/" + version
		}
	}
	return pod
}

// nodeView is a node as the framework sees it, with Drayage's apiVersion for the sake of events.
func nodeView(n *dcorev1.Node) *corev1.Node {
	node := upstream.Node(n)
	node.APIVersion = dcorev1.GroupVersion.String()
	return node
}

func values[T any](objects []runtime.Object) []T {
	items := make([]T, len(objects))
	for i, object := range objects {
		items[i] = *any(object).(*T)
	}
	return items
}

// dropManagedFields keeps the largest part of an object, which no plugin reads, out of memory.
func dropManagedFields(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil && accessor.GetManagedFields() != nil {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}
