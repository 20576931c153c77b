package upstream

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	dschedulingv1 "drayage.dev/apis/scheduling/v1"
)

// Pod returns p as upstream's Pod. It shares p's memory.
func Pod(p *dcorev1.Pod) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: p.ObjectMeta, Spec: p.Spec, Status: p.Status.PodStatus,
	}
}

// FromPod returns p as Drayage's Pod, with an empty summary. It shares p's memory.
func FromPod(p *corev1.Pod) *dcorev1.Pod {
	return &dcorev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: dcorev1.GroupVersion.String(), Kind: "Pod"},
		ObjectMeta: p.ObjectMeta, Spec: p.Spec, Status: dcorev1.PodStatus{PodStatus: p.Status},
	}
}

// Node returns n as upstream's Node. It shares n's memory.
func Node(n *dcorev1.Node) *corev1.Node {
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: n.ObjectMeta, Spec: n.Spec, Status: n.Status.NodeStatus,
	}
}

// FromNode returns n as Drayage's Node, with an empty summary. It shares n's memory.
func FromNode(n *corev1.Node) *dcorev1.Node {
	return &dcorev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: dcorev1.GroupVersion.String(), Kind: "Node"},
		ObjectMeta: n.ObjectMeta, Spec: n.Spec, Status: dcorev1.NodeStatus{NodeStatus: n.Status},
	}
}

// Service returns s as upstream's Service. It shares s's memory.
func Service(s *dcorev1.Service) *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: s.ObjectMeta, Spec: s.Spec, Status: s.Status.ServiceStatus,
	}
}

// FromService returns s as Drayage's Service, with an empty summary. It shares s's memory.
func FromService(s *corev1.Service) *dcorev1.Service {
	return &dcorev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: dcorev1.GroupVersion.String(), Kind: "Service"},
		ObjectMeta: s.ObjectMeta, Spec: s.Spec, Status: dcorev1.ServiceStatus{ServiceStatus: s.Status},
	}
}

// EndpointSlice returns e as upstream's EndpointSlice. It shares e's memory.
func EndpointSlice(e *ddiscoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		TypeMeta:   metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: e.ObjectMeta, AddressType: e.AddressType, Endpoints: e.Endpoints, Ports: e.Ports,
	}
}

// FromEndpointSlice returns e as Drayage's EndpointSlice. It shares e's memory.
func FromEndpointSlice(e *discoveryv1.EndpointSlice) *ddiscoveryv1.EndpointSlice {
	return &ddiscoveryv1.EndpointSlice{
		TypeMeta:   metav1.TypeMeta{APIVersion: ddiscoveryv1.GroupVersion.String(), Kind: "EndpointSlice"},
		ObjectMeta: e.ObjectMeta, AddressType: e.AddressType, Endpoints: e.Endpoints, Ports: e.Ports,
	}
}

// Deployment returns d as upstream's Deployment. It shares d's memory.
func Deployment(d *dappsv1.Deployment) *appsv1.Deployment {
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: d.ObjectMeta, Spec: d.Spec, Status: d.Status.DeploymentStatus,
	}
}

// FromDeployment returns d as Drayage's Deployment, with an empty summary. It shares d's memory.
func FromDeployment(d *appsv1.Deployment) *dappsv1.Deployment {
	return &dappsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: dappsv1.GroupVersion.String(), Kind: "Deployment"},
		ObjectMeta: d.ObjectMeta, Spec: d.Spec, Status: dappsv1.DeploymentStatus{DeploymentStatus: d.Status},
	}
}

// ReplicaSet returns r as upstream's ReplicaSet. It shares r's memory.
func ReplicaSet(r *dappsv1.ReplicaSet) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		ObjectMeta: r.ObjectMeta, Spec: r.Spec, Status: r.Status.ReplicaSetStatus,
	}
}

// FromReplicaSet returns r as Drayage's ReplicaSet, with an empty summary. It shares r's memory.
func FromReplicaSet(r *appsv1.ReplicaSet) *dappsv1.ReplicaSet {
	return &dappsv1.ReplicaSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: dappsv1.GroupVersion.String(), Kind: "ReplicaSet"},
		ObjectMeta: r.ObjectMeta, Spec: r.Spec, Status: dappsv1.ReplicaSetStatus{ReplicaSetStatus: r.Status},
	}
}

// PriorityClass returns c as upstream's PriorityClass. It shares c's memory.
func PriorityClass(c *dschedulingv1.PriorityClass) *schedulingv1.PriorityClass {
	return &schedulingv1.PriorityClass{
		TypeMeta:   metav1.TypeMeta{APIVersion: "scheduling.k8s.io/v1", Kind: "PriorityClass"},
		ObjectMeta: c.ObjectMeta, Value: c.Value, GlobalDefault: c.GlobalDefault,
		Description: c.Description, PreemptionPolicy: c.PreemptionPolicy,
	}
}

// PodDisruptionBudget returns b as upstream's PodDisruptionBudget. It shares b's memory.
func PodDisruptionBudget(b *dpolicyv1.PodDisruptionBudget) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: b.ObjectMeta, Spec: b.Spec, Status: b.Status,
	}
}

// FromPodDisruptionBudget returns b as Drayage's PodDisruptionBudget. It shares b's memory.
func FromPodDisruptionBudget(b *policyv1.PodDisruptionBudget) *dpolicyv1.PodDisruptionBudget {
	return &dpolicyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: dpolicyv1.GroupVersion.String(), Kind: "PodDisruptionBudget"},
		ObjectMeta: b.ObjectMeta, Spec: b.Spec, Status: b.Status,
	}
}
