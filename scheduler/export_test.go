package scheduler

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

// Knows reports whether decisions of s see this version of object. Kinds come by watches of their own, so
// a spec that creates a node and then a pod would otherwise depend on which arrives first.
func Knows(s *Scheduler, object metav1.Object) bool {
	name, version := object.GetName(), object.GetResourceVersion()
	switch object.(type) {
	case *dcorev1.Node:
		info, ok := s.upstream.Cache.Dump().Nodes[name]
		return ok && info.Node() != nil && info.Node().ResourceVersion == version
	case *dcorev1.Service:
		seen, err := s.informers.Core().V1().Services().Lister().Services(object.GetNamespace()).Get(name)
		return err == nil && seen.ResourceVersion == version
	case *dappsv1.ReplicaSet:
		seen, err := s.informers.Apps().V1().ReplicaSets().Lister().ReplicaSets(object.GetNamespace()).Get(name)
		return err == nil && seen.ResourceVersion == version
	}
	return false
}
