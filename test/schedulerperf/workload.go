package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// testCase is one entry of a performance-config.yaml: what both schedulers have in common with upstream's test.
type testCase struct {
	Name                   string          `json:"name"`
	FeatureGates           map[string]bool `json:"featureGates"`
	SchedulerConfigPath    string          `json:"schedulerConfigPath"`
	DefaultPodTemplatePath string          `json:"defaultPodTemplatePath"`
	WorkloadTemplate       []operation     `json:"workloadTemplate"`
	Workloads              []variant       `json:"workloads"`

	dir string
}

// variant is a test case's sizes.
type variant struct {
	Name   string         `json:"name"`
	Labels []string       `json:"labels"`
	Params map[string]any `json:"params"`
}

// operation is a step of a test case. Fields that no supported operation has are missing.
type operation struct {
	Opcode                   string   `json:"opcode"`
	Count                    int      `json:"count"`
	CountParam               string   `json:"countParam"`
	Namespace                string   `json:"namespace"`
	Prefix                   string   `json:"prefix"`
	NamespaceTemplatePath    string   `json:"namespaceTemplatePath"`
	NodeTemplatePath         string   `json:"nodeTemplatePath"`
	PodTemplatePath          string   `json:"podTemplatePath"`
	PVTemplatePath           string   `json:"persistentVolumeTemplatePath"`
	TemplatePath             string   `json:"templatePath"`
	TemplatePaths            []string `json:"templatePaths"`
	Mode                     string   `json:"mode"`
	IntervalMilliseconds     int      `json:"intervalMilliseconds"`
	CollectMetrics           bool     `json:"collectMetrics"`
	SkipWaitToCompletion     bool     `json:"skipWaitToCompletion"`
	LabelNodePrepareStrategy *struct {
		LabelKey    string   `json:"labelKey"`
		LabelValues []string `json:"labelValues"`
	} `json:"labelNodePrepareStrategy"`
}

// pods is how many pods a variant names.
func (v *variant) pods() (pods int) {
	for name, value := range v.Params {
		if n, ok := value.(float64); ok && strings.Contains(name, "Pods") {
			pods += int(n)
		}
	}
	return pods
}

// workload is a test case in one size.
type workload struct {
	*testCase
	size variant
}

func (w *workload) name() string { return w.Name + "/" + w.size.Name }

// sizes are the variants that a scale takes, the first that a test case has.
var sizes = map[string][]string{
	"small":   {"500Nodes", "500Nodes/10Init/1kPods", "100Nodes", "5Nodes"},
	"default": {"5000Nodes", "5kNodes/100Init/1kPods", "1000Nodes", "5000Nodes_10000Pods", "500Nodes"},
	"large":   {"5000Nodes_10000Pods", "5kNodes/100Init/10kPods", "5000Nodes_5000Pods", "5000Nodes_2000Pods", "5000Nodes", "1000Nodes"},
}

// maxPods bounds the variants of the default scale: it is to be done within a quarter of an hour.
const maxPods = 12000

// topics are the folders of scheduler_perf that have workloads for features that Drayage has.
var topics = []string{"misc", "affinity", "topology_spreading"}

// perfDir is where the pinned module keeps scheduler_perf.
func perfDir() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return "", fmt.Errorf("finding k8s.io/kubernetes: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "test/integration/scheduler_perf"), nil
}

// load reads upstream's test cases in a scale's size. left says which are not run, and why.
func load(scale string) (workloads []*workload, left []string, err error) {
	order, ok := sizes[scale]
	if !ok {
		return nil, nil, fmt.Errorf("choosing workloads: no scale is called %q", scale)
	}
	root, err := perfDir()
	if err != nil {
		return nil, nil, err
	}
	for _, topic := range topics {
		var cases []*testCase
		dir := filepath.Join(root, topic)
		data, err := os.ReadFile(filepath.Join(dir, "performance-config.yaml"))
		if err != nil {
			return nil, nil, fmt.Errorf("reading scheduler_perf's workloads: %w", err)
		}
		if err := yaml.Unmarshal(data, &cases); err != nil {
			return nil, nil, fmt.Errorf("decoding %s's workloads: %w", topic, err)
		}
		for _, c := range cases {
			c.dir = dir
			w := &workload{testCase: c}
			for _, name := range order {
				i := slices.IndexFunc(c.Workloads, func(v variant) bool { return v.Name == name })
				if i >= 0 && (scale != "default" || c.Workloads[i].pods() <= maxPods) {
					w.size = c.Workloads[i]
					break
				}
			}
			if why := w.unsupported(); why != "" {
				left = append(left, c.Name+": "+why)
				continue
			}
			workloads = append(workloads, w)
		}
	}
	return workloads, left, nil
}

// unsupported says why a workload is not run, "" if it is.
func (w *workload) unsupported() string {
	if w.SchedulerConfigPath != "" {
		return "a scheduler configuration of its own"
	}
	for i := range w.WorkloadTemplate {
		switch o := &w.WorkloadTemplate[i]; o.Opcode {
		case "createNodes", "createNamespaces":
		case "createPods":
			if o.PVTemplatePath != "" {
				return "persistent volumes"
			}
			if o.SkipWaitToCompletion {
				return "pods that are not to be scheduled"
			}
			pod, err := w.podTemplate(o)
			if err != nil {
				return err.Error()
			}
			for i := range pod.Spec.Containers {
				for name := range pod.Spec.Containers[i].Resources.Requests {
					if name != corev1.ResourceCPU && name != corev1.ResourceMemory {
						return "extended resources"
					}
				}
			}
		case "createAny":
			if !strings.HasSuffix(o.TemplatePath, "/service.yaml") {
				return "objects of other kinds"
			}
		case "churn":
			if o.Mode != "create" {
				return "churn of other kinds than pods"
			}
		default:
			return "the operation " + o.Opcode
		}
	}
	if w.size.Name == "" {
		return "no variant of this scale"
	}
	return ""
}

// count is how often an operation is done.
func (w *workload) count(o *operation) int {
	if o.CountParam == "" {
		return max(o.Count, 1)
	}
	n, _ := w.size.Params[strings.TrimPrefix(o.CountParam, "$")].(float64)
	return int(n)
}

// defaultPod is upstream's pod for test cases that name no template.
func defaultPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "pod-"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "pause", Image: "registry.k8s.io/pause:3.10.1", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
			Resources: corev1.ResourceRequirements{
				Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("500Mi")},
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("500Mi")},
			},
		}}},
	}
}

func (w *workload) podTemplate(o *operation) (*corev1.Pod, error) {
	path := o.PodTemplatePath
	if path == "" {
		path = w.DefaultPodTemplatePath
	}
	if path == "" {
		return defaultPod(), nil
	}
	pod := &corev1.Pod{}
	if err := w.read(path, pod); err != nil {
		return nil, err
	}
	if pod.Spec.Priority != nil {
		// Upstream's test turns the admission off that wants a class for this.
		pod.Spec.PriorityClassName, pod.Spec.Priority = priorityClass(*pod.Spec.Priority), nil
	}
	return pod, nil
}

func priorityClass(value int32) string { return fmt.Sprint("priority-", value) }

func (w *workload) nodeTemplate(o *operation) (*corev1.Node, error) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "scheduler-perf-"},
		Status: corev1.NodeStatus{
			Capacity: corev1.ResourceList{
				corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"),
			},
			Phase:      corev1.NodeRunning,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	if o.NodeTemplatePath != "" {
		node = &corev1.Node{}
		if err := w.read(o.NodeTemplatePath, node); err != nil {
			return nil, err
		}
	}
	node.Status.Allocatable = node.Status.Capacity
	return node, nil
}

func (w *workload) read(path string, into any) error {
	data, err := os.ReadFile(filepath.Join(w.dir, path))
	if err != nil {
		return fmt.Errorf("reading a template: %w", err)
	}
	if err := yaml.Unmarshal(data, into); err != nil {
		return fmt.Errorf("decoding the template %s: %w", path, err)
	}
	return nil
}
