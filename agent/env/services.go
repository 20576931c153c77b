package env

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
	"k8s.io/kubernetes/pkg/kubelet/envvars"
)

// apiService is the service in the default namespace that every pod is told of, links or not, unless the
// pod's own namespace has a service of that name.
const apiService = "kubernetes"

func (s Sources) serviceVariables(pod *corev1.Pod) (map[string]string, error) {
	variables := map[string]string{}
	if s.Services == nil {
		return variables, nil
	}
	all, err := s.Services()
	if err != nil {
		return nil, fmt.Errorf("listing services for environment variables: %w", err)
	}
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	byName := map[string]*corev1.Service{}
	for _, service := range all {
		if !corev1helper.IsServiceIPSet(service) || len(service.Spec.Ports) == 0 {
			continue
		}
		switch {
		case service.Namespace == metav1.NamespaceDefault && service.Name == apiService:
			if byName[service.Name] == nil {
				byName[service.Name] = service
			}
		case service.Namespace == pod.Namespace && links:
			byName[service.Name] = service
		}
	}
	list := make([]*corev1.Service, 0, len(byName))
	for _, service := range byName {
		list = append(list, service)
	}
	for _, variable := range envvars.FromServices(list) {
		variables[variable.Name] = variable.Value
	}
	return variables, nil
}
