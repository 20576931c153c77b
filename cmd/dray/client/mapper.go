package client

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"drayage.dev/config"
)

// PreferDrayage returns a mapper that takes a name without a group for Drayage's resource where Drayage
// has one: "pod", "po" and "pods" are pods.core.drayage.dev even where the API server has pods of its own.
func PreferDrayage(mapper meta.RESTMapper) (meta.RESTMapper, error) {
	crds, err := config.CRDs()
	if err != nil {
		return nil, fmt.Errorf("reading Drayage's kinds: %w", err)
	}
	p := &preferring{RESTMapper: mapper, resources: map[string]schema.GroupVersionResource{}}
	for _, crd := range crds {
		names := crd.Spec.Names
		resource := schema.GroupVersionResource{Group: crd.Spec.Group, Resource: names.Plural}
		for _, version := range crd.Spec.Versions {
			if version.Storage {
				resource.Version = version.Name
			}
		}
		for _, name := range append(slices.Clone(names.ShortNames), names.Plural, names.Singular, strings.ToLower(names.Kind)) {
			p.resources[name] = resource
		}
		// Drayage's short names are upstream's with a "d" in front.
		for _, name := range names.ShortNames {
			if short := strings.TrimPrefix(name, "d"); short != name && len(short) > 1 {
				p.resources[short] = resource
			}
		}
	}
	return p, nil
}

type preferring struct {
	meta.RESTMapper
	resources map[string]schema.GroupVersionResource
}

// Reset forwards to the mapper below, which may have cached what the server said.
func (p *preferring) Reset() { meta.MaybeResetRESTMapper(p.RESTMapper) }

func (p *preferring) own(resource schema.GroupVersionResource) schema.GroupVersionResource {
	if own, ok := p.resources[strings.ToLower(resource.Resource)]; ok && resource.Group == "" && resource.Version == "" {
		return own
	}
	return resource
}

func (p *preferring) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return p.RESTMapper.ResourceFor(p.own(r))
}

func (p *preferring) ResourcesFor(r schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return p.RESTMapper.ResourcesFor(p.own(r))
}

func (p *preferring) KindFor(r schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return p.RESTMapper.KindFor(p.own(r))
}

func (p *preferring) KindsFor(r schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return p.RESTMapper.KindsFor(p.own(r))
}
