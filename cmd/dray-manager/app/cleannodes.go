package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/yaml"

	dcorev1 "drayage.dev/apis/core/v1"
)

const (
	// cleanLabel marks the pods that clean nodes.
	cleanLabel = "drayage.dev/clean-node"
	// cleanPeriod is the time between two looks at those pods.
	cleanPeriod = time.Second
	// cleanAtOnce bounds how many nodes are cleaned at the same time.
	cleanAtOnce = 100
)

func newCleanNodesCommand(cfg *Config) *cobra.Command {
	var template, selector string
	timeout := 4 * time.Minute
	command := &cobra.Command{
		Use:   "clean-nodes",
		Short: "Take what Drayage has left off all nodes of the cluster",
		Long: `Runs one pod on each node of the cluster that has had an agent, and waits until all of them have succeeded. The
pod is --pod-template, which runs "dray-agent clean". It is the last step of an uninstallation, may be run again, and
fails with the names of the nodes that it could not clean.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			restConfig, err := cfg.restConfig()
			if err != nil {
				return err
			}
			pod, err := parsePod(template)
			if err != nil {
				return err
			}
			clean, err := newNodeCleaner(pod, selector)
			if err != nil {
				return err
			}
			if clean.client, err = kubernetes.NewForConfig(restConfig); err != nil {
				return err
			}
			if clean.metadata, err = metadata.NewForConfig(restConfig); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctrl.SetupSignalHandler(), timeout)
			defer cancel()
			return clean.run(ctx)
		},
	}
	command.Flags().StringVar(&template, "pod-template", template, "the pod that cleans one node, with its namespace, in YAML or JSON")
	command.Flags().StringVar(&selector, "node-selector", selector, "labels of the nodes that may have had an agent, beside those that have a Drayage Node")
	command.Flags().DurationVar(&timeout, "timeout", timeout, "how long to try")
	return command
}

func parsePod(text string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), pod); err != nil {
		return nil, fmt.Errorf("reading --pod-template: %w", err)
	}
	if pod.Namespace == "" || len(pod.Spec.Containers) == 0 {
		return nil, errors.New("reading --pod-template: a pod with a namespace and a container is needed")
	}
	return pod, nil
}

// nodeCleaner runs a pod on every node.
type nodeCleaner struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	template *corev1.Pod
	selector labels.Selector
}

func newNodeCleaner(template *corev1.Pod, selector string) (*nodeCleaner, error) {
	parsed, err := labels.Parse(selector)
	if err != nil {
		return nil, fmt.Errorf("reading --node-selector: %w", err)
	}
	return &nodeCleaner{template: template, selector: parsed}, nil
}

// run cleans every node, some at a time. Pods of an earlier run are in nobody's way: they are deleted first, and
// what they did is done again.
func (c *nodeCleaner) run(ctx context.Context) error {
	waiting, away, err := c.nodes(ctx)
	if err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	pods := c.client.CoreV1().Pods(c.template.Namespace)
	mine := metav1.ListOptions{LabelSelector: cleanLabel}
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, mine); err != nil {
		return fmt.Errorf("deleting the pods of an earlier run: %w", err)
	}
	// What went wrong last, by node; those that are clean leave it.
	left := map[string]string{}
	for _, node := range waiting {
		left[node] = "its turn did not come"
	}
	running := sets.New[string]()
	err = wait.PollUntilContextCancel(ctx, cleanPeriod, true, func(ctx context.Context) (bool, error) {
		for len(waiting) > 0 && running.Len() < cleanAtOnce {
			if err := c.start(ctx, waiting[0]); err != nil {
				left[waiting[0]] = err.Error()
				return false, nil
			}
			running.Insert(waiting[0])
			waiting = waiting[1:]
		}
		list, err := pods.List(ctx, mine)
		if err != nil {
			return false, nil
		}
		for i := range list.Items {
			pod := &list.Items[i]
			if pod.Status.Phase != corev1.PodSucceeded {
				left[pod.Spec.NodeName] = stateOf(pod)
				continue
			}
			delete(left, pod.Spec.NodeName)
			running.Delete(pod.Spec.NodeName)
		}
		return len(left) == 0, nil
	})
	// The pods that have not succeeded stay for a look at their logs, until the next run.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	for _, node := range away {
		left[node] = "it is not Ready"
	}
	if len(left) == 0 {
		return pods.DeleteCollection(after, metav1.DeleteOptions{}, mine)
	}
	var failures []error
	for _, node := range slices.Sorted(maps.Keys(left)) {
		failures = append(failures, fmt.Errorf("node %s: %s", node, left[node]))
	}
	return fmt.Errorf("cleaning nodes: %w; on each, as root, %q does it", errors.Join(append(failures, err)...),
		"dray-agent clean --purge")
}

// nodes are those that match the selector, and those that have a Drayage Node of their name. On those that are
// away no pod would start.
func (c *nodeCleaner) nodes(ctx context.Context) (ready, away []string, err error) {
	ours := sets.New[string]()
	list, err := c.metadata.Resource(dcorev1.GroupVersion.WithResource("nodes")).List(ctx, metav1.ListOptions{})
	switch {
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		// The kinds are gone.
	case err != nil:
		return nil, nil, err
	default:
		for i := range list.Items {
			ours.Insert(list.Items[i].Name)
		}
	}
	all, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, err
	}
	for i := range all.Items {
		node := &all.Items[i]
		switch {
		case !ours.Has(node.Name) && !c.selector.Matches(labels.Set(node.Labels)):
		case slices.ContainsFunc(node.Status.Conditions, func(condition corev1.NodeCondition) bool {
			return condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
		}):
			ready = append(ready, node.Name)
		default:
			away = append(away, node.Name)
		}
	}
	return ready, away, nil
}

// start runs the pod of one node. It goes there by name, whatever keeps other pods away.
func (c *nodeCleaner) start(ctx context.Context, node string) error {
	pod := c.template.DeepCopy()
	pod.Name, pod.GenerateName = "", "drayage-clean-"
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[cleanLabel] = ""
	pod.Spec.NodeName = node
	pod.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	_, err := c.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

// stateOf says how far a pod is, for who has to look after it.
func stateOf(pod *corev1.Pod) string {
	said := []string{"its pod " + pod.Name + " is " + string(pod.Status.Phase)}
	if pod.Status.Phase == "" {
		said = []string{"its pod " + pod.Name + " was not taken up by the kubelet"}
	}
	for _, status := range pod.Status.ContainerStatuses {
		switch {
		case status.State.Waiting != nil:
			said = append(said, status.State.Waiting.Reason, status.State.Waiting.Message)
		case status.LastTerminationState.Terminated != nil:
			said = append(said, status.LastTerminationState.Terminated.Message)
		}
	}
	return strings.Join(slices.DeleteFunc(said, func(s string) bool { return s == "" }), ": ")
}
