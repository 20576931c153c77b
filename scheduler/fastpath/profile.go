package fastpath

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/features"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/helper"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"

	"drayage.dev/scheduler/plugins/startup"
)

// weights are a profile's, by plugin; 0 where the plugin does not score.
type weights struct {
	taints, preference, spread, affinity, fit, balance, images, startup int64
}

// profile is one of the scheduler's profiles, with instances of upstream's plugins of its own: a framework
// does not hand out its.
type profile struct {
	framework framework.Framework
	lister    fwk.SharedLister
	weight    weights

	// preFilters and filters are all but topology spread's and inter-pod affinity's, which are the wide ones.
	preFilters, widePreFilters []fwk.PreFilterPlugin
	filters, wideFilters       []fwk.FilterPlugin
	// judges are the filters whose verdict is a matter of a node's shape.
	judges []fwk.FilterPlugin
	// nearby is inter-pod affinity's filter; nil where the profile has none.
	nearby *nearby
	// spreadAlone is topology spread's filter for merged clusters; nil where the profile has none.
	spreadAlone spreadPlugin
	ports       fwk.FilterPlugin
	taints      fwk.ScorePlugin
	preference  fwk.ScorePlugin
	images      fwk.ScorePlugin

	fitFilters, spreadFilters, affinityFilters bool
	// byName: node affinity that the profile adds to every pod may ask for names.
	byName       bool
	allocation   allocation
	spread       []corev1.TopologySpreadConstraint
	systemSpread bool
	// weightOfRequired and ignoreTheirs are InterPodAffinityArgs.
	weightOfRequired    int32
	ignoreTheirs        bool
	tolerationOperators bool

	services     corelisters.ServiceLister
	replications corelisters.ReplicationControllerLister
	replicaSets  appslisters.ReplicaSetLister
	statefulSets appslisters.StatefulSetLister
	namespaces   corelisters.NamespaceLister
}

// shapely are the plugins whose filters look at nothing of a node but its shape.
var shapely = sets.New(names.NodeUnschedulable, names.NodeName, names.TaintToleration, names.NodeAffinity, names.NodeDeclaredFeatures, startup.Name)

// idle are the plugins that have no say about the pods that supported lets pass.
var idle = sets.New(names.VolumeRestrictions, names.NodeVolumeLimits, names.VolumeBinding, names.VolumeZone, names.DynamicResources)

// treated are the plugins that rows and tallies stand for.
var treated = sets.New(names.NodePorts, names.NodeResourcesFit, names.NodeResourcesBalancedAllocation, names.ImageLocality,
	names.PodTopologySpread, names.InterPodAffinity)

// newProfile reads a profile. An error says why the fast path does not treat it.
func newProfile(ctx context.Context, f framework.Framework, config *schedulerconfig.KubeSchedulerProfile, cluster fwk.SharedLister) (*profile, error) {
	core, apps := f.SharedInformerFactory().Core().V1(), f.SharedInformerFactory().Apps().V1()
	p := &profile{
		framework: f, lister: cluster,
		services: core.Services().Lister(), replications: core.ReplicationControllers().Lister(),
		replicaSets: apps.ReplicaSets().Lister(), statefulSets: apps.StatefulSets().Lister(),
		namespaces:          core.Namespaces().Lister(),
		tolerationOperators: utilfeature.DefaultFeatureGate.Enabled(features.TaintTolerationComparisonOperators),
	}
	if len(f.Extenders()) > 0 {
		return nil, fmt.Errorf("it has extenders")
	}
	if err := p.instantiate(ctx, config); err != nil {
		return nil, err
	}
	for _, plugin := range config.PluginConfig {
		if err := p.configure(plugin.Args); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// readsLater reports whether a plugin that is not upstream's may read upstream's snapshot after a decision.
func readsLater(f framework.Framework) bool {
	known, enabled := plugins.NewInTreeRegistry(), f.ListPlugins()
	for _, set := range []schedulerconfig.PluginSet{enabled.Reserve, enabled.Permit, enabled.PreBind, enabled.Bind, enabled.PostBind} {
		for _, e := range set.Enabled {
			if known[e.Name] == nil {
				return true
			}
		}
	}
	return false
}

func (p *profile) instantiate(ctx context.Context, config *schedulerconfig.KubeSchedulerProfile) error {
	enabled := p.framework.ListPlugins()
	instances := map[string]fwk.Plugin{}
	registry := plugins.NewInTreeRegistry()
	registry[startup.Name] = startup.New
	for _, set := range []schedulerconfig.PluginSet{enabled.PreFilter, enabled.Filter, enabled.PreScore, enabled.Score} {
		for _, e := range set.Enabled {
			if instances[e.Name] != nil {
				continue
			}
			if !shapely.Has(e.Name) && !idle.Has(e.Name) && !treated.Has(e.Name) {
				return fmt.Errorf("it has the plugin %s", e.Name)
			}
			instance, err := registry[e.Name](ctx, argsOf(config, e.Name), handle{p.framework, p.lister})
			if err != nil {
				return fmt.Errorf("it has the plugin %s, which does not start: %w", e.Name, err)
			}
			instances[e.Name] = instance
		}
	}
	for _, e := range enabled.PreFilter.Enabled {
		plugin := instances[e.Name].(fwk.PreFilterPlugin)
		if e.Name == names.PodTopologySpread || e.Name == names.InterPodAffinity {
			p.widePreFilters = append(p.widePreFilters, plugin)
		} else {
			p.preFilters = append(p.preFilters, plugin)
		}
	}
	for _, e := range enabled.Filter.Enabled {
		switch e.Name {
		case names.PodTopologySpread:
			p.spreadFilters = true
			p.wideFilters = append(p.wideFilters, instances[e.Name].(fwk.FilterPlugin))
			plugin, err := registry[e.Name](ctx, argsOf(config, e.Name), alone{handle{p.framework, p.lister}})
			if err != nil {
				return fmt.Errorf("it has the plugin %s, which does not start: %w", e.Name, err)
			}
			p.spreadAlone = plugin.(spreadPlugin)
			continue
		case names.InterPodAffinity:
			p.affinityFilters = true
			p.wideFilters = append(p.wideFilters, instances[e.Name].(fwk.FilterPlugin))
			var err error
			if p.nearby, err = newNearby(ctx, p.framework, p.lister, argsOf(config, e.Name)); err != nil {
				return fmt.Errorf("it has the plugin %s, which does not start: %w", e.Name, err)
			}
			continue
		case names.NodeResourcesFit:
			p.fitFilters = true
		case names.NodePorts:
			p.ports = instances[e.Name].(fwk.FilterPlugin)
		}
		filter := instances[e.Name].(fwk.FilterPlugin)
		p.filters = append(p.filters, filter)
		if shapely.Has(e.Name) {
			p.judges = append(p.judges, filter)
		}
	}
	for _, e := range enabled.Score.Enabled {
		weight := int64(e.Weight)
		switch e.Name {
		case names.TaintToleration:
			p.weight.taints, p.taints = weight, instances[e.Name].(fwk.ScorePlugin)
		case names.NodeAffinity:
			p.weight.preference, p.preference = weight, instances[e.Name].(fwk.ScorePlugin)
		case names.ImageLocality:
			p.weight.images, p.images = weight, instances[e.Name].(fwk.ScorePlugin)
		case startup.Name:
			p.weight.startup = weight
		case names.PodTopologySpread:
			p.weight.spread = weight
		case names.InterPodAffinity:
			p.weight.affinity = weight
		case names.NodeResourcesFit:
			p.weight.fit = weight
		case names.NodeResourcesBalancedAllocation:
			p.weight.balance = weight
		case names.VolumeBinding, names.DynamicResources: // no volumes, no devices: the same for every node
		default:
			return fmt.Errorf("it scores by the plugin %s", e.Name)
		}
	}
	return nil
}

func argsOf(config *schedulerconfig.KubeSchedulerProfile, plugin string) runtime.Object {
	for _, c := range config.PluginConfig {
		if c.Name == plugin {
			return c.Args
		}
	}
	return nil
}

// configure reads the arguments of a plugin that rows or tallies stand for.
func (p *profile) configure(args runtime.Object) error {
	switch args := args.(type) {
	case *schedulerconfig.NodeAffinityArgs:
		p.byName = args.AddedAffinity != nil
	case *schedulerconfig.NodeResourcesFitArgs:
		var ok bool
		if p.allocation, ok = newAllocation(args.ScoringStrategy); !ok && p.weight.fit > 0 {
			return fmt.Errorf("its scoring strategy for resources is not a weighting of cpu and memory")
		}
	case *schedulerconfig.NodeResourcesBalancedAllocationArgs:
		cpu, memory, ok := cpuAndMemory(args.Resources)
		if p.weight.balance > 0 && (!ok || cpu == 0 || memory == 0) {
			return fmt.Errorf("it balances other resources than cpu and memory")
		}
	case *schedulerconfig.PodTopologySpreadArgs:
		p.spread = args.DefaultConstraints
		if args.DefaultingType == schedulerconfig.SystemDefaulting {
			p.spread, p.systemSpread = systemRules, true
		}
	case *schedulerconfig.InterPodAffinityArgs:
		p.weightOfRequired, p.ignoreTheirs = args.HardPodAffinityWeight, args.IgnorePreferredTermsOfExistingPods
	}
	return nil
}

// defaultSelector selects the pods among which a pod without constraints of its own is spread.
func (p *profile) defaultSelector(pod *corev1.Pod) labels.Selector {
	if len(pod.Spec.TopologySpreadConstraints) > 0 || len(p.spread) == 0 {
		return nil
	}
	return helper.DefaultSelector(pod, p.services, p.replications, p.replicaSets, p.statefulSets)
}

// filterState runs PreFilter of all plugins but, unless wide, the two that look at the whole cluster.
func (p *profile) filterState(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, wide bool) error {
	nodes, err := p.lister.NodeInfos().List()
	if err != nil {
		return fmt.Errorf("listing the nodes: %w", err)
	}
	skip := sets.New[string]()
	run := func(preFilters []fwk.PreFilterPlugin) error {
		for _, plugin := range preFilters {
			// A list of eligible nodes that comes back is narrower than Filter in no plugin of those above.
			_, status := plugin.PreFilter(ctx, state, pod, nodes)
			switch {
			case status.IsSkip():
				skip.Insert(plugin.Name())
			case !status.IsSuccess():
				return fmt.Errorf("plugin %s: %s", plugin.Name(), strings.Join(status.Reasons(), ", "))
			}
		}
		return nil
	}
	err = run(p.preFilters)
	if err == nil && wide {
		err = run(p.widePreFilters)
	}
	state.SetSkipFilterPlugins(skip)
	return err
}

// prepare makes the state by which judge works.
func (p *profile) prepare(ctx context.Context, state fwk.CycleState, pod *corev1.Pod) error {
	if err := p.filterState(ctx, state, pod, false); err != nil {
		return err
	}
	skip := sets.New[string]()
	for _, plugin := range []fwk.ScorePlugin{p.taints, p.preference} {
		preparing, ok := plugin.(fwk.PreScorePlugin)
		if !ok {
			continue
		}
		switch status := preparing.PreScore(ctx, state, pod, nil); {
		case status.IsSkip():
			skip.Insert(plugin.Name())
		case !status.IsSuccess():
			return fmt.Errorf("plugin %s: %s", plugin.Name(), strings.Join(status.Reasons(), ", "))
		}
	}
	state.SetSkipScorePlugins(skip)
	return nil
}

// passes runs filters, all of which must let the pod in.
func passes(ctx context.Context, filters []fwk.FilterPlugin, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (bool, error) {
	skipped := state.GetSkipFilterPlugins()
	for _, plugin := range filters {
		if skipped.Has(plugin.Name()) {
			continue
		}
		switch status := plugin.Filter(ctx, state, pod, node); {
		case status.IsSuccess():
		case status.IsRejected():
			return false, nil
		default:
			return false, fmt.Errorf("plugin %s: %w", plugin.Name(), status.AsError())
		}
	}
	return true, nil
}

// judge asks upstream's plugins what a node's shape decides.
func (p *profile) judge(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (s static, err error) {
	if s.ok, err = passes(ctx, p.judges, state, pod, node); err != nil || !s.ok {
		return s, err
	}
	if s.taints, err = rawScore(ctx, p.taints, state, pod, node); err != nil {
		return s, err
	}
	s.preference, err = rawScore(ctx, p.preference, state, pod, node)
	return s, err
}

// rawScore asks a plugin of upstream's. Raw scores count taints, sum up a pod's weights, or end at 100.
func rawScore(ctx context.Context, plugin fwk.ScorePlugin, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (int32, error) {
	if plugin == nil || state.GetSkipScorePlugins().Has(plugin.Name()) {
		return 0, nil
	}
	score, status := plugin.Score(ctx, state, pod, node)
	if !status.IsSuccess() {
		return 0, fmt.Errorf("plugin %s: %w", plugin.Name(), status.AsError())
	}
	return int32(score), nil
}

func (p *profile) portsFree(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (bool, error) {
	if p.ports == nil {
		return true, nil
	}
	return passes(ctx, []fwk.FilterPlugin{p.ports}, state, pod, node)
}

// loadScore sums up the weighted scores of a node's load.
func (p *profile) loadScore(d *demand, l *load) (score int64) {
	if p.weight.fit > 0 {
		score += p.weight.fit * p.allocation.score(l, d)
	}
	if p.weight.balance > 0 && (d.cpu != 0 || d.memory != 0) {
		score += p.weight.balance * l.balance(d)
	}
	if p.weight.startup > 0 {
		score += p.weight.startup * startup.QueueScore(int(l.starting))
	}
	return score
}

// imageScore is the weighted score of the class's images on a node.
func (p *profile) imageScore(ctx context.Context, c *class, info *framework.NodeInfo) (int64, error) {
	present := 0
	for _, name := range c.images {
		if info.ImageStates[name] != nil {
			present++
		}
	}
	if present == 0 {
		return 0, nil
	}
	images, err := rawScore(ctx, p.images, c.state, c.pod, info)
	return p.weight.images*int64(images) + p.weight.startup*startup.ImageScore(present, len(c.images)), err
}
