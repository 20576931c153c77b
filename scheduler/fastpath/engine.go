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
	// inter-pod rules are decided by few nodes, their filter confirms every pod by these (nearby.go).
	sampleEvery = 64
	// fewNodes is up to how many nodes with required anti-affinity these filters are cheap for other pods.
	fewNodes = 16
)

// engine is the fast path of one scheduler.
type engine struct {
	upstream    func(context.Context, framework.Framework, fwk.CycleState, *framework.QueuedPodInfo) (kubescheduler.ScheduleResult, error)
	profiles    map[string]*profile
	nominations *nominations
	nodes       nodes
	chooser     chooser
	classes     map[string]*class
	// recent holds the classes' keys, the least recently used first.
	recent []string
}

// Install puts the fast path in front of a scheduler that does not run yet. The profiles are those that
// the scheduler was made with. Profiles that the fast path does not treat stay upstream's.
func Install(ctx context.Context, s *kubescheduler.Scheduler, profiles []schedulerconfig.KubeSchedulerProfile) {
	register()
	queue := newNominations(s.SchedulingQueue)
	s.SchedulingQueue = queue
	e := &engine{upstream: s.SchedulePod, profiles: map[string]*profile{}, nominations: queue, classes: map[string]*class{}}
	for i := range profiles {
		name := profiles[i].SchedulerName
		p, err := newProfile(ctx, s.Profiles[name], &profiles[i])
		if err != nil {
			klog.FromContext(ctx).Info("Placing pods of a profile one by one", "profile", name, "reason", err.Error())
			continue
		}
		e.profiles[name] = p
		e.nodes.countsStarting = e.nodes.countsStarting || p.weight.startup > 0
	}
	s.SchedulePod = e.schedulePod
}

// schedulePod takes the place of upstream's function of that name.
func (e *engine) schedulePod(ctx context.Context, f framework.Framework, state fwk.CycleState, info *framework.QueuedPodInfo) (kubescheduler.ScheduleResult, error) {
	result, reason := e.carefully(ctx, f, state, info.Pod)
	if reason == "" {
		placements.WithLabelValues("fast", "").Inc()
		return result, nil
	}
	placements.WithLabelValues("upstream", reason).Inc()
	result, err := e.upstream(ctx, f, state, info)
	if reason == reasonUnplaceable && err == nil {
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
	list, err := f.SnapshotSharedLister().NodeInfos().List()
	if err != nil || len(list) == 0 {
		return result, reasonUnplaceable
	}
	if epoch := e.nodes.epoch; e.nodes.refresh(list) != epoch {
		e.forgetClasses()
	}
	c, reason := e.classOf(ctx, p, pod)
	if c == nil {
		return result, reason
	}
	social, err := havePodsWithAffinity(f)
	if err == nil {
		err = c.sync(ctx, social, e.nodes.haveAny(c.images))
	}
	if err != nil {
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
	promised := e.nominations.promised(pod)
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
		SuggestedHost: chosen.Node().Name, EvaluatedNodes: len(list), FeasibleNodes: feasible,
	}, ""
}

// havePodsWithAffinity reports whether some pod on a node has rules about others.
func havePodsWithAffinity(f framework.Framework) (bool, error) {
	list, err := f.SnapshotSharedLister().NodeInfos().HavePodsWithAffinityList()
	if err != nil {
		return false, fmt.Errorf("listing nodes with pods that have affinity: %w", err)
	}
	return len(list) > 0, nil
}

// confirm asks upstream's plugins about the chosen node.
func (e *engine) confirm(ctx context.Context, c *class, state fwk.CycleState, pod *corev1.Pod, node int32) error {
	chosen := e.nodes.info[node]
	if c.confirmsCheaply() || c.uses%sampleEvery == 1 {
		if _, status, _ := c.profile.framework.RunPreFilterPlugins(ctx, state, pod); !status.IsSuccess() {
			return errors.New(status.Message())
		}
		if status := c.profile.framework.RunFilterPlugins(ctx, state, pod, chosen); !status.IsSuccess() {
			return errors.New(status.Message())
		}
		return nil
	}
	if err := c.profile.filterState(ctx, state, pod); err != nil {
		return err
	}
	ok, err := passes(ctx, c.profile.filters, state, pod, chosen)
	if err == nil && !ok {
		err = errors.New("a filter refuses it")
	}
	if err != nil || c.profile.nearby == nil {
		return err
	}
	if deciders, ok := c.deciders(node); ok {
		return c.profile.nearby.confirm(ctx, state, pod, deciders)
	}
	return nil
}

// confirmsCheaply reports whether no filter has to visit all nodes for the class.
func (c *class) confirmsCheaply() bool {
	if len(c.hard)+len(c.affinity.attracts)+len(c.affinity.repels) > 0 {
		return false
	}
	list, err := c.profile.framework.SnapshotSharedLister().NodeInfos().HavePodsWithRequiredAntiAffinityList()
	return err == nil && len(list) <= fewNodes
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
