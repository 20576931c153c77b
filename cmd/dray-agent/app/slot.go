package app

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"drayage.dev/agent/cgroups"
)

// What the slot's parts that are no pods need. The agent is outside of the slot's cgroup, in that of its own
// pod, so its part is not the tree's; the runtime and the DNS server are inside.
var (
	agentNeeds   = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	runtimeNeeds = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
)

// slot is what the node has of the machine; empty means all of it.
type slot corev1.ResourceList

func slotOf(cpu, memory string) (slot, error) {
	found := slot{}
	for _, part := range []struct {
		flag, text string
		name       corev1.ResourceName
	}{{"--slot-cpu", cpu, corev1.ResourceCPU}, {"--slot-memory", memory, corev1.ResourceMemory}} {
		if part.text == "" {
			continue
		}
		quantity, err := resource.ParseQuantity(part.text)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", part.flag, part.text, err)
		}
		least := agentNeeds[part.name]
		least.Add(runtimeNeeds[part.name])
		if quantity.Cmp(least) <= 0 {
			return nil, fmt.Errorf("%s %s leaves nothing to pods: agent and runtime need %s", part.flag, part.text, least.String())
		}
		found[part.name] = quantity
	}
	if len(found) == 1 {
		return nil, fmt.Errorf("a slot has CPU and memory: give --slot-cpu and --slot-memory")
	}
	return found, nil
}

// reserve adds to what pods may not have of the slot what agent and runtime need of it.
func (s slot) reserve(reserved corev1.ResourceList) {
	for name := range s {
		quantity := reserved[name]
		quantity.Add(agentNeeds[name])
		quantity.Add(runtimeNeeds[name])
		reserved[name] = quantity
	}
}

// limit bounds the cgroup of everything that the node runs to the slot, less the agent's part.
func (s slot) limit(tree *cgroups.Tree) error {
	if len(s) == 0 {
		return nil
	}
	cpu, memory := s[corev1.ResourceCPU], s[corev1.ResourceMemory]
	cpu.Sub(agentNeeds[corev1.ResourceCPU])
	memory.Sub(agentNeeds[corev1.ResourceMemory])
	return tree.LimitRoot(cpu.MilliValue(), memory.Value())
}
