package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	fwk "k8s.io/kube-scheduler/framework"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/scheduler"
	"drayage.dev/test/changes"
)

var _ = Describe("no pod is lost, bound twice or stuck", func() {
	BeforeEach(func() { DeferCleanup(clean) })

	It("when the API server refuses a binding", func(ctx context.Context) {
		refuseBindings(ctx)
		startScheduler(scheduler.Config{})
		addNode(ctx, "node-1")
		refused := addPod(ctx, "refused", withRequest("3", "1Gi"), withLabel("refuse", "yes"))
		Eventually(func() string {
			if condition := scheduledCondition(get(ctx, refused)); condition != nil {
				return condition.Message
			}
			return ""
		}, patience).Should(ContainSubstring("not today"))
		// Its place is free for others meanwhile, and it gets one when it may.
		other := addPod(ctx, "other", withRequest("3", "1Gi"))
		Expect(nodeOf(ctx, other)).To(Equal("node-1"))
		Expect(get(ctx, refused).Spec.NodeName).To(BeEmpty())
		allow := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"refuse":null}}}`))
		Expect(admin.Patch(ctx, refused.DeepCopy(), allow)).To(Succeed())
		addNode(ctx, "node-2")
		Expect(nodeOf(ctx, refused)).To(Equal("node-2"))
	})

	It("when the API server is away for a minute", func(ctx context.Context) {
		once := watchBindings(ctx)
		wire := newWire(identity.Host)
		config := rest.CopyConfig(identity)
		config.Host = wire.url()
		startScheduler(scheduler.Config{RESTConfig: config})
		for i := range 3 {
			addNode(ctx, fmt.Sprintf("node-%d", i))
		}
		var pods []*dcorev1.Pod
		add := func(phase string) {
			for i := range 40 {
				pods = append(pods, addPod(ctx, fmt.Sprintf("%s-%d", phase, i), withRequest("50m", "10Mi")))
			}
		}
		add("before") // some are bound when the wire is cut, some are under way
		wire.cut()
		add("during")
		time.Sleep(time.Minute) // what the spec is about
		wire.join()
		add("after")
		// Informers back off for up to a minute, as all of upstream's do.
		Eventually(func(g Gomega) {
			for _, pod := range pods {
				g.Expect(get(ctx, pod).Spec.NodeName).NotTo(BeEmpty(), pod.Name)
			}
		}, 3*time.Minute, time.Second).Should(Succeed())
		once(pods)
	})

	It("when two schedulers work at once", func(ctx context.Context) {
		once := watchBindings(ctx)
		startScheduler(scheduler.Config{})
		startScheduler(scheduler.Config{})
		for i := range 3 {
			addNode(ctx, fmt.Sprintf("node-%d", i))
		}
		var pods []*dcorev1.Pod
		for i := range 40 {
			pods = append(pods, addPod(ctx, fmt.Sprintf("web-%d", i), withRequest("50m", "10Mi")))
		}
		for _, pod := range pods {
			nodeOf(ctx, pod)
		}
		once(pods)
	})

	It("when a plugin panics over one pod", func(ctx context.Context) {
		var well atomic.Bool
		startScheduler(scheduler.Config{Configuration: withPlugin("Jumpy")},
			scheduler.WithPlugin("Jumpy", func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
				return jumpy{preFilter: func() {
					if !well.Load() {
						panic("boo")
					}
				}}, nil
			}))
		addNode(ctx, "node-1")
		poison := addPod(ctx, "poison")
		Expect(nodeOf(ctx, addPod(ctx, "web"))).To(Equal("node-1"))
		Eventually(func() string {
			if condition := scheduledCondition(get(ctx, poison)); condition != nil {
				return condition.Message
			}
			return ""
		}, patience).Should(ContainSubstring("a plugin panicked: boo"))
		well.Store(true)
		Expect(nodeOf(ctx, poison)).To(Equal("node-1"))
	})

	It("when a plugin's panic ends the process", func(ctx context.Context) {
		once := watchBindings(ctx)
		addNode(ctx, "node-1")
		var pods []*dcorev1.Pod
		for i := range 10 {
			pods = append(pods, addPod(ctx, fmt.Sprintf("web-%d", i)))
		}
		pods = append(pods, addPod(ctx, "poison"))
		dir := GinkgoT().TempDir()
		out, err := crashing(ctx, dir).CombinedOutput()
		var exit *exec.ExitError
		Expect(errors.As(err, &exit)).To(BeTrue(), "%v: %s", err, out)
		Expect(string(out)).To(ContainSubstring("panic: boo"))
		Expect(get(ctx, pods[10]).Spec.NodeName).To(BeEmpty())

		// Whoever runs it starts it anew. This time the plugin is well.
		again, cancel := context.WithCancel(ctx)
		defer cancel()
		second := crashing(again, dir)
		Expect(second.Start()).To(Succeed())
		for _, pod := range pods {
			Expect(nodeOf(ctx, pod)).To(Equal("node-1"))
		}
		cancel()
		_ = second.Wait()
		once(pods)
	})
})

// crashVariable names a directory: this process is a scheduler whose plugin panics over the pod "poison", unless it
// has done so before.
const crashVariable = "DRAYAGE_TEST_CRASH"

// crashing returns a scheduler as a process of its own.
func crashing(ctx context.Context, dir string) *exec.Cmd {
	GinkgoHelper()
	command := exec.CommandContext(ctx, os.Args[0], "-test.run", "TestScheduler")
	command.Env = append(os.Environ(), crashVariable+"="+dir, "KUBECONFIG="+identityFile)
	return command
}

// crash is what such a process does.
func crash(dir string) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	configuration, err := latest.Default()
	if err != nil {
		return err
	}
	enable(configuration, "Jumpy")
	mark := filepath.Join(dir, "panicked")
	return scheduler.Run(context.Background(), scheduler.Config{RESTConfig: config, Configuration: configuration},
		scheduler.WithPlugin("Jumpy", func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
			return jumpy{filter: func() {
				if _, err := os.Stat(mark); err != nil {
					_ = os.WriteFile(mark, nil, 0o600)
					panic("boo")
				}
			}}, nil
		}))
}

// jumpy calls functions for pods that are called "poison".
type jumpy struct{ preFilter, filter func() }

func (jumpy) Name() string { return "Jumpy" }

func (j jumpy) PreFilter(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if pod.Name == "poison" && j.preFilter != nil {
		j.preFilter()
	}
	return nil, nil
}

func (jumpy) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

func (j jumpy) Filter(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, _ fwk.NodeInfo) *fwk.Status {
	if pod.Name == "poison" && j.filter != nil {
		j.filter()
	}
	return nil
}

func enable(configuration *schedulerconfig.KubeSchedulerConfiguration, plugin string) {
	enabled := &configuration.Profiles[0].Plugins.MultiPoint.Enabled
	*enabled = append(*enabled, schedulerconfig.Plugin{Name: plugin})
}

func withPlugin(plugin string) *schedulerconfig.KubeSchedulerConfiguration {
	GinkgoHelper()
	configuration, err := latest.Default()
	Expect(err).NotTo(HaveOccurred())
	enable(configuration, plugin)
	return configuration
}

// followPods calls seen for all pods and what becomes of them until the spec ends.
func followPods(ctx context.Context, seen func(*dcorev1.Pod)) {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(ctx)
	events, err := changes.Of(ctx, admin, &dcorev1.PodList{}, client.InNamespace(namespace))
	Expect(err).NotTo(HaveOccurred())
	go func() {
		defer GinkgoRecover()
		for event := range events.ResultChan() {
			pod, ok := event.Object.(*dcorev1.Pod)
			Expect(ok).To(BeTrue(), "%v", event.Object)
			if event.Type != watch.Deleted {
				seen(pod)
			}
		}
	}()
	DeferCleanup(cancel)
}

// watchRefusals follows all pods. The returned function lists what was said of those that were not scheduled.
func watchRefusals(ctx context.Context) (said func() []string) {
	GinkgoHelper()
	var mu sync.Mutex
	var messages []string
	followPods(ctx, func(pod *dcorev1.Pod) {
		if condition := scheduledCondition(pod); condition != nil && condition.Status == corev1.ConditionFalse {
			mu.Lock()
			defer mu.Unlock()
			messages = append(messages, condition.Message)
		}
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(messages)
	}
}

// watchBindings follows all pods. The returned function expects that each of the given ones got one node, once.
func watchBindings(ctx context.Context) (once func([]*dcorev1.Pod)) {
	GinkgoHelper()
	var mu sync.Mutex
	nodes := map[string][]string{}
	seen := func(pod string) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(nodes[pod])
	}
	followPods(ctx, func(pod *dcorev1.Pod) {
		if pod.Spec.NodeName == "" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if all := nodes[pod.Name]; len(all) == 0 || all[len(all)-1] != pod.Spec.NodeName {
			nodes[pod.Name] = append(all, pod.Spec.NodeName)
		}
	})
	return func(pods []*dcorev1.Pod) {
		GinkgoHelper()
		for _, pod := range pods {
			Eventually(func() []string { return seen(pod.Name) }, patience).Should(Equal([]string{get(ctx, pod).Spec.NodeName}), pod.Name)
		}
	}
}

// refuseBindings has the API server refuse to bind pods with the label refuse=yes until the spec ends.
func refuseBindings(ctx context.Context) {
	GinkgoHelper()
	const name = "refuse-bindings"
	fail := admissionv1.Fail
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fail,
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Update},
					Rule:       admissionv1.Rule{APIGroups: []string{dcorev1.GroupVersion.Group}, APIVersions: []string{"*"}, Resources: []string{"pods"}},
				},
			}}},
			Validations: []admissionv1.Validation{{
				Expression: "!('refuse' in object.metadata.?labels.orValue({})) || object.spec.?nodeName.orValue('') == ''", Message: "not today",
			}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	for _, object := range []client.Object{policy, binding} {
		Expect(admin.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(admin.Delete(ctx, object)).To(Succeed()) })
	}
	// Until the policy works.
	probe := addPod(ctx, "probe", withLabel("refuse", "yes"), func(p *dcorev1.Pod) { p.Spec.SchedulerName = "nobody" })
	Eventually(func() error {
		return admin.Patch(ctx, probe.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"nodeName":"nowhere"}}`)), client.DryRunAll)
	}, patience, 50*time.Millisecond).Should(MatchError(ContainSubstring("not today")))
}
