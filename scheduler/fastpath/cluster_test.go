package fastpath_test

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	kubescheduler "k8s.io/kubernetes/pkg/scheduler"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	"drayage.dev/scheduler/fastpath"
	"drayage.dev/scheduler/plugins/startup"
)

// cluster is upstream's scheduler with its cache, without an API: pods and nodes come by calls.
type cluster struct {
	scheduler *kubescheduler.Scheduler
	framework framework.Framework
	snapshot  *cache.Snapshot
	informers informers.SharedInformerFactory
	profile   schedulerconfig.KubeSchedulerProfile
	serial    int
	// oracle is upstream's scheduler over the same cache with a snapshot of its own, where the fast path is in front of
	// this one. It is up to date whatever the fast path does, or leaves undone.
	oracle *cluster
	engine fastpath.Engine
}

// newCluster makes a scheduler of one profile, the default one unless changed. With fast, the fast path is
// in front of it.
func newCluster(ctx context.Context, fast bool, changes ...func(*schedulerconfig.KubeSchedulerConfiguration)) (*cluster, error) {
	configuration, err := latest.Default()
	if err != nil {
		return nil, err
	}
	for _, change := range changes {
		change(configuration)
	}
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	c, err := newScheduler(ctx, client, factory, configuration)
	if err != nil || !fast {
		return c, err
	}
	if c.oracle, err = newScheduler(ctx, client, factory, configuration); err != nil {
		return nil, err
	}
	c.oracle.scheduler.Cache = c.scheduler.Cache
	c.engine = fastpath.InstallEngine(klog.NewContext(ctx, klog.Logger{}), c.scheduler, configuration.Profiles)
	c.oracle.framework.SetPodNominator(c.scheduler.SchedulingQueue)
	return c, nil
}

func newScheduler(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory, configuration *schedulerconfig.KubeSchedulerConfiguration) (c *cluster, err error) {
	c = &cluster{informers: factory, profile: configuration.Profiles[0]}
	ctx = klog.NewContext(ctx, klog.Logger{})
	recorder := func(string) events.EventRecorderLogger { return &events.FakeRecorder{} }
	c.scheduler, err = kubescheduler.New(ctx, client, c.informers, nil, recorder,
		kubescheduler.WithProfiles(c.profile), kubescheduler.WithPercentageOfNodesToScore(configuration.PercentageOfNodesToScore),
		kubescheduler.WithFrameworkOutOfTreeRegistry(frameworkruntime.Registry{startup.Name: startup.New}))
	if err != nil {
		return nil, err
	}
	c.framework = c.scheduler.Profiles[c.profile.SchedulerName]
	c.snapshot = c.framework.SnapshotSharedLister().(*cache.Snapshot)
	return c, nil
}

func (c *cluster) logger() klog.Logger { return klog.Logger{} }

// know makes an object of a kind that plugins list known to them.
func (c *cluster) know(object any) error {
	switch object.(type) {
	case *corev1.Namespace:
		return c.informers.Core().V1().Namespaces().Informer().GetIndexer().Add(object)
	case *corev1.Pod:
		return c.informers.Core().V1().Pods().Informer().GetIndexer().Add(object)
	case *corev1.Service:
		return c.informers.Core().V1().Services().Informer().GetIndexer().Add(object)
	}
	return c.informers.Apps().V1().ReplicaSets().Informer().GetIndexer().Add(object)
}

// begin starts a scheduling cycle.
func (c *cluster) begin() error { return c.scheduler.Cache.UpdateSnapshot(c.logger(), c.snapshot) }

// decide runs one scheduling cycle's algorithm.
func (c *cluster) decide(ctx context.Context, pod *corev1.Pod) (string, error) {
	if err := c.begin(); err != nil {
		return "", err
	}
	info, err := framework.NewPodInfo(pod)
	if err != nil {
		return "", err
	}
	result, err := c.scheduler.SchedulePod(ctx, c.framework, framework.NewCycleState(), &framework.QueuedPodInfo{PodInfo: info})
	return result.SuggestedHost, err
}

// place assumes that a pod runs on a node, and returns it.
func (c *cluster) place(pod *corev1.Pod, node string) (*corev1.Pod, error) {
	placed := pod.DeepCopy()
	placed.Spec.NodeName = node
	return placed, c.scheduler.Cache.AssumePod(c.logger(), placed)
}

// stamp makes a pod of a template.
func (c *cluster) stamp(template *corev1.Pod) *corev1.Pod {
	c.serial++
	pod := template.DeepCopy()
	pod.Name = fmt.Sprintf("pod-%d", c.serial)
	pod.UID = types.UID(pod.Name)
	return pod
}

func newTemplate(labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Labels: labels},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers:    []corev1.Container{{Name: "main", Image: "web:1"}},
		},
	}
}

func init() { klog.SetOutput(io.Discard); klog.LogToStderr(false) }
