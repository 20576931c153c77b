package fastpath

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	kubescheduler "k8s.io/kubernetes/pkg/scheduler"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/interpodaffinity"

	"drayage.dev/scheduler/plugins/startup"
)

const (
	// maxRows bounds all classes' rows together: at some 100 bytes each with their tallies, 200 MB.
	maxRows = 2 << 20
	// maxClasses bounds the classes of small clusters.
	maxClasses = 256
	// sampleEvery is how often both filters that look at the whole cluster confirm a class that has rules
	// for them, beside its first pod. Their PreFilter visits all nodes and costs what a class saves. Where
	// few nodes decide, their filter confirms every pod by these (nearby.go), and all nodes are a second opinion.
	sampleEvery, secondOpinionEvery = 64, 512
	// fewNodes is up to how many nodes with required anti-affinity these filters are cheap for other pods.
	fewNodes = 16
)

// engine is the fast path of one scheduler.
type engine struct {
	upstream    func(context.Context, framework.Framework, fwk.CycleState, *framework.QueuedPodInfo) (kubescheduler.ScheduleResult, error)
	profiles    map[string]*profile
	nominations *nominations
	mirror      *mirror
	nodes       nodes
	chooser     chooser
	classes     map[string]*class
	// recent holds the classes' keys, the least recently used first.
	recent []string
}

// Install puts the fast path in front of a scheduler that does not run yet. The profiles are those that
// the scheduler was made with. Profiles that the fast path does not treat stay upstream's.
func Install(ctx context.Context, s *kubescheduler.Scheduler, profiles []schedulerconfig.KubeSchedulerProfile) {
	install(ctx, s, profiles)
}

// install returns nil where it installs nothing.
func install(ctx context.Context, s *kubescheduler.Scheduler, profiles []schedulerconfig.KubeSchedulerProfile) *engine {
	register()
	snapshot, ok := snapshotOf(s)
	if !ok {
		klog.FromContext(ctx).Info("Placing all pods one by one: the profiles share no snapshot")
		return nil
	}
	queue := newNominations(s.SchedulingQueue)
	s.SchedulingQueue = queue
	e := &engine{mirror: newMirror(s.Cache, snapshot), upstream: s.SchedulePod, profiles: map[string]*profile{}, nominations: queue, classes: map[string]*class{}}
	for i := range profiles {
		name := profiles[i].SchedulerName
		p, err := newProfile(ctx, s.Profiles[name], &profiles[i], e.mirror.lister())
		if err != nil {
			klog.FromContext(ctx).Info("Placing pods of a profile one by one", "profile", name, "reason", err.Error())
			continue
		}
		e.profiles[name] = p
		e.nodes.countsStarting = e.nodes.countsStarting || p.weight.startup > 0
		e.mirror.eager = e.mirror.eager || readsLater(s.Profiles[name])
	}
	s.Cache, s.SchedulePod = e.mirror, e.schedulePod
	return e
}

// snapshotOf returns the snapshot that all profiles read.
func snapshotOf(s *kubescheduler.Scheduler) (snapshot *cache.Snapshot, ok bool) {
	for _, f := range s.Profiles {
		of, is := f.SnapshotSharedLister().(*cache.Snapshot)
		if !is || snapshot != nil && of != snapshot {
			return nil, false
		}
		snapshot = of
	}
	return snapshot, snapshot != nil
}

// schedulePod takes the place of upstream's function of that name.
func (e *engine) schedulePod(ctx context.Context, f framework.Framework, state fwk.CycleState, info *framework.QueuedPodInfo) (kubescheduler.ScheduleResult, error) {
	result, reason := e.carefully(ctx, f, state, info.Pod)
	if reason == "" {
		placements.WithLabelValues("fast", "").Inc()
		return result, nil
	}
	placements.WithLabelValues("upstream", reason).Inc()
	moved, err := e.mirror.current(klog.FromContext(ctx))
	if err != nil {
		return kubescheduler.ScheduleResult{}, fmt.Errorf("taking a snapshot: %w", err)
	}
	result, err = e.upstream(ctx, f, state, info)
	if reason == reasonUnplaceable && err == nil && !moved {
		e.alarm(ctx, info.Pod, "missed", result.SuggestedHost)
	}
	return result, err
}

// carefully decides, and leaves the pod to upstream if that panics.
func (e *engine) carefully(ctx context.Context, f framework.Framework, state fwk.CycleState, pod *corev1.Pod) (result kubescheduler.ScheduleResult, reason string) {
	defer func() {
		if cause := recover(); cause != nil {
			klog.FromContext(ctx).Error(nil, "The fast path panicked", "pod", klog.KObj(pod), "cause", cause, "stack", string(debug.Stack()))
			e.alarm(ctx, pod, "panicked", "")
			result, reason = kubescheduler.ScheduleResult{}, reasonPanicked
		}
	}()
	return e.place(ctx, f, state, pod)
}

func (e *engine) alarm(ctx context.Context, pod *corev1.Pod, kind, node string) {
	disagreements.WithLabelValues(kind).Inc()
	klog.FromContext(ctx).Error(nil, "The fast path disagreed with upstream's plugins", "pod", klog.KObj(pod), "kind", kind, "node", node)
	// Whatever is wrong with what is known about nodes ends here.
	e.mirror.doubt()
	e.forget()
}

// forget starts over: the next decision reads every node anew.
func (e *engine) forget() {
	e.forgetClasses()
	e.nodes.list = nil
}

func (e *engine) forgetClasses() {
	for key := range e.classes {
		e.drop(key)
	}
	e.recent = nil
}

// place decides, or says why it does not.
func (e *engine) place(ctx context.Context, f framework.Framework, state fwk.CycleState, pod *corev1.Pod) (result kubescheduler.ScheduleResult, reason string) {
	p := e.profiles[f.ProfileName()]
	if p == nil {
		return result, reasonProfile
	}
	if reason, ok := supported(pod); !ok {
		return result, reason
	}
	promised := e.nominations.promised(pod)
	if len(promised) > 0 { // the framework judges these by upstream's snapshot
		if _, err := e.mirror.current(klog.FromContext(ctx)); err != nil {
			return result, reasonPlugin
		}
	}
	if len(e.mirror.list) == 0 {
		return result, reasonUnplaceable
	}
	if epoch := e.nodes.epoch; e.nodes.refresh(e.mirror) != epoch {
		e.forgetClasses()
	}
	c, reason := e.classOf(ctx, p, pod)
	if c == nil {
		return result, reason
	}
	if err := c.sync(ctx, len(e.mirror.affine.list) > 0, e.nodes.haveAny(c.images)); err != nil {
		klog.FromContext(ctx).V(2).Info("Left a pod to upstream's plugins", "pod", klog.KObj(pod), "reason", err.Error())
		e.forget()
		return result, reasonPlugin
	}
	c.uses++
	if c.uses > 1 && !c.plain && !c.groups.active {
		c.groups.build(c)
	}
	var node int32
	var feasible int
	if len(promised) == 0 {
		node, feasible = e.chooser.choose(c)
	} else {
		var ok bool
		if node, feasible, ok = e.chooseBeside(ctx, c, promised, state, pod); !ok {
			return result, reasonNominated
		}
	}
	if feasible == 0 {
		return result, reasonUnplaceable
	}
	chosen := e.nodes.info[node]
	if err := e.confirm(ctx, c, state, pod, node); err != nil {
		klog.FromContext(ctx).V(2).Info("Upstream's plugins refused a choice", "pod", klog.KObj(pod), "node", chosen.Node().Name, "reason", err.Error())
		e.alarm(ctx, pod, "refused", chosen.Node().Name)
		return result, reasonDisagreed
	}
	return kubescheduler.ScheduleResult{
		SuggestedHost: chosen.Node().Name, EvaluatedNodes: len(e.nodes.list), FeasibleNodes: feasible,
	}, ""
}

// confirm asks upstream's plugins about the chosen node.
func (e *engine) confirm(ctx context.Context, c *class, state fwk.CycleState, pod *corev1.Pod, node int32) error {
	p, wide := c.profile, e.confirmsCheaply(c)
	// Where the wide plugins need not see all nodes to confirm the pod, that they do is a second opinion.
	var deciders []fwk.NodeInfo
	spread := false
	if !wide {
		deciders, spread = c.deciders(node), c.merged != nil && c.merged.affords()
		every := sampleEvery
		if len(deciders) > 0 && (spread || c.merged == nil) {
			every = secondOpinionEvery
		}
		wide = c.uses%every == 1
	}
	if err := p.filterState(ctx, state, pod, wide); err != nil {
		return err
	}
	ok, err := passes(ctx, p.filters, state, pod, e.nodes.info[node])
	if err == nil && ok && wide {
		ok, err = passes(ctx, p.wideFilters, state, pod, e.nodes.info[node])
	}
	if err == nil && !ok {
		err = errors.New("a filter refuses it")
	}
	if err == nil && !wide && spread {
		err = c.merged.confirm(ctx, p.spreadAlone, e.nodes.list, state, pod, node)
	}
	if err == nil && !wide && len(deciders) > 0 && p.nearby != nil {
		err = p.nearby.confirm(ctx, state, pod, deciders)
	}
	return err
}

// confirmsCheaply reports whether no filter has to visit all nodes for the class.
func (e *engine) confirmsCheaply(c *class) bool {
	return len(c.hard)+len(c.affinity.attracts)+len(c.affinity.repels) == 0 && len(e.mirror.repelling.list) <= fewNodes
}

// classOf finds or makes the pod's class. When it is nil, reason says why.
func (e *engine) classOf(ctx context.Context, p *profile, pod *corev1.Pod) (c *class, reason string) {
	defaults := p.defaultSelector(pod)
	namespaceLabels := interpodaffinity.GetNamespaceLabelsSnapshot(klog.FromContext(ctx), pod.Namespace, p.namespaces)
	key, err := keyOf(pod, defaults, namespaceLabels)
	if err != nil {
		return nil, reasonPlugin
	}
	if c = e.classes[key]; c != nil {
		e.touch(key)
		return c, ""
	}
	d, plain := demandOf(pod)
	if !plain {
		return nil, reasonResources
	}
	if c, err = newClass(ctx, p, &e.nodes, pod, d, defaults, namespaceLabels); err != nil {
		klog.FromContext(ctx).V(2).Info("Left a pod to upstream's plugins", "pod", klog.KObj(pod), "reason", err.Error())
		return nil, reasonPlugin
	}
	c.images = startup.Images(pod)
	e.classes[key] = c
	e.touch(key)
	for len(e.recent) > max(1, min(maxClasses, maxRows/len(e.nodes.list))) {
		e.drop(e.recent[0])
		e.recent = e.recent[1:]
	}
	return c, ""
}

func (e *engine) drop(key string) {
	if c := e.classes[key]; c != nil {
		classSizes.Observe(float64(c.uses))
		delete(e.classes, key)
	}
}

// touch makes a class the most recently used one.
func (e *engine) touch(key string) {
	last := len(e.recent) - 1
	if last >= 0 && e.recent[last] == key {
		return
	}
	for i, k := range e.recent {
		if k == key {
			e.recent = append(e.recent[:i], e.recent[i+1:]...)
			break
		}
	}
	e.recent = append(e.recent, key)
}
