package proxy

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"

	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/network/spec"
)

// maxGroups bounds the groups of one service; further ones, by name, get nothing.
const maxGroups = 100

// weightsOf reads the weights of a service's groups from its slices; nil when no slice has one, and all
// endpoints are alike. Where slices of one group differ, the one with the first name counts. Groups that
// no slice gives a weight have none, which is 0.
func weightsOf(endpoints []*discoveryv1.EndpointSlice) map[string]int {
	names, weights := map[string]string{}, map[string]int(nil)
	for _, slice := range endpoints {
		weight, err := strconv.Atoi(slice.Annotations[ddiscoveryv1.WeightAnnotation])
		if err != nil || weight < 0 || weight > ddiscoveryv1.MaxWeight {
			continue
		}
		group := slice.Labels[ddiscoveryv1.GroupLabel]
		if first, ok := names[group]; ok && first < slice.Name {
			continue
		}
		if weights == nil {
			weights = map[string]int{}
		}
		names[group], weights[group] = slice.Name, weight
	}
	return weights
}

// share divides connections among groups, all of which have endpoints and a weight, if any has one. Every
// group gets one of a thousand at least; what does not divide goes to those that lack most.
func share(groups map[string][]netip.AddrPort, weights map[string]int) []spec.Group {
	names := slices.Sorted(maps.Keys(groups))
	names = names[:min(len(names), maxGroups)]
	total := 0
	for _, name := range names {
		total += weights[name]
	}
	result, left := make([]spec.Group, len(names)), spec.Shares
	for i, name := range names {
		result[i] = spec.Group{Share: max(1, weights[name]*spec.Shares/total), Slots: groups[name]}
		left -= result[i].Share
	}
	// How far a group is from what it should have.
	lack := func(i int) int { return weights[names[i]]*spec.Shares - result[i].Share*total }
	for ; left > 0; left-- {
		most := 0
		for i := range names {
			if lack(i) > lack(most) {
				most = i
			}
		}
		result[most].Share++
	}
	for ; left < 0; left++ {
		most := 0
		for i := range names {
			if result[i].Share > result[most].Share {
				most = i
			}
		}
		result[most].Share--
	}
	return result
}
