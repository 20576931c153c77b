package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
)

const (
	// creators is how many objects are created at a time, as in upstream's test.
	creators = 30
	// workloadPatience bounds the measured part of a workload.
	workloadPatience = 5 * time.Minute
)

// outcome is what a side makes of a workload.
type outcome struct {
	pods int
	// created is how long creating the pods took, elapsed until the last one was bound, told until the last event was written.
	created, elapsed, told time.Duration
	// p50 and p99 are of a successful attempt, from its start to the answer to its binding.
	p50, p99 time.Duration
	// cpu of the scheduler and of API server and etcd, per pod.
	schedulerCPU, apiCPU time.Duration
}

func (o *outcome) rate() float64 { return float64(o.pods) / o.elapsed.Seconds() }

// run is one workload on one side.
type run struct {
	*side
	w       *workload
	objects objects
	plain   kubernetes.Interface
	nodes   []string
	bound   int // pods that were created bound
	options *options
	// churning starts what goes on beside the scheduling.
	churning []func() error

	mu                   sync.Mutex
	seen                 map[string]bool // pods of the measured namespace that have a node
	first                time.Time       // start of the measurement: the first such pod, unless pods are created meanwhile
	apiCPU, schedulerCPU time.Duration   // until then
	measured             string
	progress             chan struct{}
}

// measure runs a workload on a side whose state is in dir.
func measure(ctx context.Context, w *workload, name, dir string, options *options) (*outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &run{side: newSide(name, filepath.Join(dir, "run")), w: w, options: options, seen: map[string]bool{}, progress: make(chan struct{}, 1)}
	defer os.RemoveAll(r.dir)
	defer r.stop()
	if err := r.prepareNodes(ctx, filepath.Join(dir, "base-"+w.nodesKey())); err != nil {
		return nil, err
	}
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	working.Go(func() {
		// A server that has just started ends its first watches.
		for see := r.see(ctx); ctx.Err() == nil; {
			_ = r.objects.watch(ctx, see)
			_ = pause(ctx, 100*time.Millisecond)
		}
	})
	var o *outcome
	for i := range w.WorkloadTemplate {
		op := &w.WorkloadTemplate[i]
		if err := r.do(ctx, i, op, &working, &o); err != nil {
			return nil, fmt.Errorf("%s: %w", op.Opcode, err)
		}
	}
	if o == nil {
		return nil, errors.New("nothing is measured")
	}
	return o, nil
}

// nodesKey names what the nodes of a workload are.
func (w *workload) nodesKey() string {
	key := ""
	for i := range w.WorkloadTemplate {
		if o := &w.WorkloadTemplate[i]; o.Opcode == "createNodes" {
			key += fmt.Sprint(w.count(o), "-", filepath.Base(o.NodeTemplatePath))
			if l := o.LabelNodePrepareStrategy; l != nil {
				key += "-" + strings.Join(l.LabelValues, "-")
			}
		}
	}
	return key
}

// prepareNodes starts the API server on a state with the workload's nodes. The state is kept in base, because
// creating thousands of nodes takes longer than most workloads.
func (r *run) prepareNodes(ctx context.Context, base string) error {
	if _, err := os.Stat(base); err == nil {
		if out, err := exec.Command("cp", "-a", base, r.dir).CombinedOutput(); err != nil {
			return fmt.Errorf("copying nodes: %w: %s", err, out)
		}
		return r.connect(ctx)
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	if err := r.connect(ctx); err != nil {
		return err
	}
	for i := range r.w.WorkloadTemplate {
		op := &r.w.WorkloadTemplate[i]
		if op.Opcode != "createNodes" {
			continue
		}
		template, err := r.w.nodeTemplate(op)
		if err != nil {
			return err
		}
		err = parallel(ctx, r.w.count(op), func(n int) error {
			node := template.DeepCopy()
			if node.Name == "" {
				node.Name, node.GenerateName = fmt.Sprint(node.GenerateName, i, "-", n), ""
			}
			if node.Labels == nil {
				node.Labels = map[string]string{}
			}
			node.Labels[corev1.LabelHostname] = node.Name
			if l := op.LabelNodePrepareStrategy; l != nil {
				node.Labels[l.LabelKey] = l.LabelValues[n%len(l.LabelValues)]
			}
			return r.objects.node(ctx, node)
		})
		if err != nil {
			return fmt.Errorf("creating nodes: %w", err)
		}
	}
	r.stop()
	if out, err := exec.Command("cp", "-a", r.dir, base).CombinedOutput(); err != nil {
		return fmt.Errorf("keeping nodes: %w: %s", err, out)
	}
	return r.connect(ctx)
}

// connect starts the API server and waits until it answers.
func (r *run) connect(ctx context.Context) error {
	if err := r.start(r.side, ctx); err != nil {
		return err
	}
	var err error
	if r.objects, r.plain, err = r.client(); err != nil {
		return err
	}
	for until := time.Now().Add(startPatience); ; {
		_, err = r.plain.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			_, err = r.plain.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		}
		if err == nil || time.Now().After(until) {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// do carries out one operation.
func (r *run) do(ctx context.Context, index int, op *operation, working *sync.WaitGroup, o **outcome) error {
	namespace := op.Namespace
	if namespace == "" {
		namespace = fmt.Sprint("namespace-", index)
	}
	switch op.Opcode {
	case "createNodes":
		template, err := r.w.nodeTemplate(op)
		if err != nil {
			return err
		}
		for n := range r.w.count(op) {
			if template.Name != "" {
				r.nodes = append(r.nodes, template.Name)
				continue
			}
			r.nodes = append(r.nodes, fmt.Sprint(template.GenerateName, index, "-", n))
		}
		return nil
	case "createNamespaces":
		for n := range r.w.count(op) {
			if err := r.namespace(ctx, fmt.Sprint(op.Prefix, "-", n)); err != nil {
				return err
			}
		}
		return nil
	case "createAny":
		service := &corev1.Service{}
		if err := r.w.read(op.TemplatePath, service); err != nil {
			return err
		}
		service.Namespace = namespace
		if err := r.namespace(ctx, namespace); err != nil {
			return err
		}
		return r.objects.service(ctx, service)
	case "churn":
		r.churning = append(r.churning, func() error { return r.churn(ctx, op, namespace, working) })
		return nil
	}
	template, err := r.w.podTemplate(op)
	if err != nil {
		return err
	}
	if err := r.namespace(ctx, namespace); err != nil {
		return err
	}
	if err := r.priority(ctx, template); err != nil {
		return err
	}
	if !op.CollectMetrics {
		return r.createPods(ctx, template, namespace, r.w.count(op), true)
	}
	*o, err = r.schedulePods(ctx, template, namespace, r.w.count(op))
	return err
}

func (r *run) namespace(ctx context.Context, name string) error {
	_, err := r.plain.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// priority makes the class that a pod names.
func (r *run) priority(ctx context.Context, pod *corev1.Pod) error {
	var value int32
	if _, err := fmt.Sscanf(pod.Spec.PriorityClassName, "priority-%d", &value); err != nil {
		return nil
	}
	if err := r.objects.priority(ctx, value); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// owner is the controller of a namespace's pods. No plugin makes anything of it, but nearly all pods have one.
func (r *run) owner(ctx context.Context, namespace string) ([]metav1.OwnerReference, error) {
	const name = "load"
	maps := r.plain.CoreV1().ConfigMaps(namespace)
	owner, err := maps.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		owner, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	}
	if err != nil {
		return nil, err
	}
	yes := true
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: name, UID: owner.UID, Controller: &yes}}, nil
}

// createPods creates pods from a template, bound evenly over the nodes if so asked.
func (r *run) createPods(ctx context.Context, template *corev1.Pod, namespace string, count int, bound bool) error {
	first := r.bound
	if bound {
		r.bound += count
	}
	owner, err := r.owner(ctx, namespace)
	if err != nil {
		return err
	}
	return parallel(ctx, count, func(n int) error {
		pod := template.DeepCopy()
		pod.Namespace, pod.OwnerReferences = namespace, owner
		if bound {
			pod.Spec.NodeName = r.nodes[(first+n)%len(r.nodes)]
		}
		return r.objects.pod(ctx, pod)
	})
}

// churn creates pods from time to time until the workload ends.
func (r *run) churn(ctx context.Context, op *operation, namespace string, working *sync.WaitGroup) error {
	var templates []*corev1.Pod
	for _, path := range op.TemplatePaths {
		pod, err := r.w.podTemplate(&operation{PodTemplatePath: path})
		if err != nil {
			return err
		}
		if err := r.priority(ctx, pod); err != nil {
			return err
		}
		templates = append(templates, pod)
	}
	if err := r.namespace(ctx, namespace); err != nil {
		return err
	}
	working.Go(func() {
		tick := time.NewTicker(time.Duration(op.IntervalMilliseconds) * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				for _, template := range templates {
					_ = r.createPods(ctx, template, namespace, 1, false)
				}
			}
		}
	})
	return nil
}

// scheduling starts the scheduler, unless it runs, and waits until it schedules.
func (r *run) scheduling(ctx context.Context) error {
	if r.scheduler != nil {
		return nil
	}
	if err := r.schedule(r.side); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	url := strings.TrimSuffix(r.metricsURL, "/metrics") + "/readyz"
	for until := time.Now().Add(startPatience); time.Now().Before(until); {
		if response, err := client.Get(url); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		if !r.scheduler.Running() {
			return fmt.Errorf("starting the scheduler: it ended; see %s", r.scheduler.Log)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("starting the scheduler: not ready within %s", startPatience)
}

// schedulePods is what is measured: how a scheduler works off pods that wait for it or, as in upstream's test,
// that are created meanwhile.
func (r *run) schedulePods(ctx context.Context, template *corev1.Pod, namespace string, count int) (*outcome, error) {
	r.mu.Lock()
	r.measured = namespace
	r.mu.Unlock()
	o := &outcome{pods: count}
	create := func() error {
		start := time.Now()
		defer func() { o.created = time.Since(start) }()
		return r.createPods(ctx, template, namespace, count, false)
	}
	if !r.options.creating {
		if err := create(); err != nil {
			return nil, err
		}
	}
	if err := r.scheduling(ctx); err != nil {
		return nil, err
	}
	for _, churn := range r.churning {
		if err := churn(); err != nil {
			return nil, err
		}
	}
	if r.options.profiles != "" {
		defer r.profile(ctx)()
	}
	if r.options.creating {
		r.mark(time.Now())
		if err := create(); err != nil {
			return nil, err
		}
	}
	patience := time.After(workloadPatience)
	for r.boundPods() < count {
		select {
		case <-r.progress:
		case <-patience:
			return nil, fmt.Errorf("scheduling: %d of %d pods have a node after %s", r.boundPods(), count, workloadPatience)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	o.elapsed = time.Since(r.first)
	// The CPU of what tells of the pods counts, too.
	last, err := r.awaitEvents(ctx, namespace)
	if err != nil {
		return nil, err
	}
	o.told = max(o.elapsed, last.Sub(r.first))
	o.apiCPU = (cpu(r.api...) - r.apiCPU) / time.Duration(count)
	o.schedulerCPU = (cpu(r.scheduler) - r.schedulerCPU) / time.Duration(count)
	text, err := r.metrics(ctx)
	if err != nil {
		return nil, err
	}
	o.p50, o.p99, err = attemptLatency(text)
	return o, err
}

// eventsPatience is how long no event has to come until all have. The API server's idle CPU meanwhile is that of some pods.
const eventsPatience = time.Second

// awaitEvents waits until no more events come, and says when the last one was seen.
func (r *run) awaitEvents(ctx context.Context, namespace string) (since time.Time, err error) {
	known, since := int64(-1), time.Now()
	for time.Since(since) < eventsPatience {
		list, err := r.plain.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return since, fmt.Errorf("counting events: %w", err)
		}
		n := int64(len(list.Items))
		if rest := list.RemainingItemCount; rest != nil {
			n += *rest
		}
		if n != known {
			known, since = n, time.Now()
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return since, err
		}
	}
	return since, nil
}

// mark notes the start of what is measured.
func (r *run) mark(now time.Time) {
	r.first, r.apiCPU, r.schedulerCPU = now, cpu(r.api...), cpu(r.scheduler)
}

// profile keeps profiles of the API server's CPU.
func (r *run) profile(ctx context.Context) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		data, err := r.plain.Discovery().RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", "5").DoRaw(ctx)
		if err == nil {
			err = os.WriteFile(filepath.Join(r.options.profiles, r.name+"-api.pprof"), data, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "profiling:", err)
		}
	}()
	return func() { <-done }
}

func (r *run) boundPods() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// see follows pods: it counts those that get a node, and plays the agents for those that are deleted.
func (r *run) see(ctx context.Context) func(*corev1.Pod) {
	ended := map[string]bool{}
	return func(pod *corev1.Pod) {
		key := pod.Namespace + "/" + pod.Name
		if pod.DeletionTimestamp != nil && !ended[key] {
			ended[key] = true
			go func() { _ = r.objects.end(ctx, pod.Namespace, pod.Name) }()
		}
		if pod.Spec.NodeName == "" {
			return
		}
		r.mu.Lock()
		if pod.Namespace == r.measured {
			if r.seen[key] = true; r.first.IsZero() {
				r.mark(time.Now())
			}
		}
		r.mu.Unlock()
		select {
		case r.progress <- struct{}{}:
		default:
		}
	}
}

// parallel does something count times and returns the first error.
func parallel(ctx context.Context, count int, do func(int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workqueue.ParallelizeUntil(ctx, creators, count, func(n int) {
		for attempt := 1; ; attempt++ {
			err := do(n)
			if err == nil {
				return
			}
			if attempt == 5 || ctx.Err() != nil {
				cancel(err)
				return
			}
			_ = pause(ctx, time.Duration(attempt*100+rand.IntN(100))*time.Millisecond)
		}
	})
	return context.Cause(ctx)
}

func pause(ctx context.Context, length time.Duration) error {
	select {
	case <-time.After(length):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
