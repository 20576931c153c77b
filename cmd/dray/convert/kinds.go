package convert

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"drayage.dev/config"
)

const (
	groupSuffix = ".drayage.dev"
	// subresources is the aggregated group that serves what a custom resource cannot have as subresource.
	subresources = "subresources.drayage.dev"
)

// streams are the pod subresources that the aggregated group serves.
var streams = []string{"log", "exec", "attach", "portforward", "eviction", "resize", "ephemeralcontainers"}

// everywhere are the kinds that any API server has, Drayage's embedded one included. No kinds: all of the
// group.
var everywhere = map[string][]string{
	"":                             {"Namespace", "ConfigMap", "Secret", "ServiceAccount", "Event"},
	"rbac.authorization.k8s.io":    nil,
	"coordination.k8s.io":          {"Lease"},
	"events.k8s.io":                nil,
	"certificates.k8s.io":          {"CertificateSigningRequest"},
	"apiextensions.k8s.io":         nil,
	"apiregistration.k8s.io":       nil,
	"admissionregistration.k8s.io": nil,
}

// catalog knows Drayage's kinds.
type catalog struct {
	// versions are the served versions of each kind.
	versions map[schema.GroupKind][]string
	// resources are the plural names of each group.
	resources map[string][]string
}

func newCatalog() (*catalog, error) {
	crds, err := config.CRDs()
	if err != nil {
		return nil, fmt.Errorf("reading Drayage's kinds: %w", err)
	}
	c := &catalog{versions: map[schema.GroupKind][]string{}, resources: map[string][]string{}}
	for _, crd := range crds {
		kind := schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind}
		for _, version := range crd.Spec.Versions {
			if version.Served {
				c.versions[kind] = append(c.versions[kind], version.Name)
			}
		}
		c.resources[crd.Spec.Group] = append(c.resources[crd.Spec.Group], crd.Spec.Names.Plural)
	}
	return c, nil
}

// counterpart returns Drayage's group for one of Kubernetes' own, "" for any other group.
func counterpart(group string) string {
	switch {
	case group == "":
		return "core" + groupSuffix
	case !strings.Contains(group, "."):
		return group + groupSuffix
	case strings.HasSuffix(group, ".k8s.io"):
		first, _, _ := strings.Cut(group, ".")
		return first + groupSuffix
	}
	return ""
}

// verdict is what becomes of an object.
type verdict int

const (
	leftOut verdict = iota
	unchanged
	converted
)

// judge says what becomes of an object of that kind, with its new apiVersion or the reason for leaving it
// out.
func (c *catalog) judge(apiVersion, kind string) (v verdict, text string) {
	version, err := schema.ParseGroupVersion(apiVersion)
	if err != nil || kind == "" || apiVersion == "" {
		return leftOut, "not a Kubernetes object: it needs an apiVersion and a kind"
	}
	if strings.HasSuffix(version.Group, groupSuffix) {
		return unchanged, ""
	}
	if kinds, ok := everywhere[version.Group]; ok && (kinds == nil || slices.Contains(kinds, kind)) {
		return unchanged, ""
	}
	target := schema.GroupKind{Group: counterpart(version.Group), Kind: kind}
	served, ok := c.versions[target]
	switch {
	case target.Group == "":
		return leftOut, fmt.Sprintf("left out: %s is not a kind of Kubernetes itself; apply it as it is if its operator can work with Drayage's kinds", kind)
	case !ok:
		return leftOut, fmt.Sprintf("left out: Drayage has no %s", kind)
	case !slices.Contains(served, version.Version):
		return leftOut, fmt.Sprintf("left out: Drayage has %s in version %s only, not %s; bring the manifest to that version first",
			kind, strings.Join(served, ", "), version.Version)
	}
	return converted, target.Group + "/" + version.Version
}

// twins returns, by Drayage group, the resources that a rule about Kubernetes' groups and resources means
// there.
func (c *catalog) twins(groups, resources []string) map[string][]string {
	out := map[string][]string{}
	add := func(group, resource string) {
		if !slices.Contains(out[group], resource) {
			out[group] = append(out[group], resource)
		}
	}
	for _, group := range groups {
		target := counterpart(group)
		own := c.resources[target]
		if len(own) == 0 {
			continue
		}
		for _, resource := range resources {
			base, sub, _ := strings.Cut(resource, "/")
			switch {
			case resource == "*":
				add(target, "*")
				if group == "" {
					for _, stream := range streams {
						add(subresources, "pods/"+stream)
					}
				}
			case group == "" && slices.Contains(streams, sub) && (base == "pods" || base == "*"):
				add(subresources, "pods/"+sub)
			case slices.Contains(own, base), base == "*":
				add(target, resource)
			}
		}
	}
	return out
}
