package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray-manager/certs"
	"drayage.dev/controllers/core/node"
	"drayage.dev/internal/scheme"
)

const (
	// releasePage is how many pods are read at once.
	releasePage = 500
	// releasePeriod is the time between two looks at all pods and nodes.
	releasePeriod = 2 * time.Second
	// abandonPatience is how long agents that still report their nodes hold up the end: they may run outside of the
	// cluster, and go on.
	abandonPatience = time.Minute
)

func newUnregisterCommand(cfg *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "unregister",
		Short: "Take Drayage's APIService and webhooks out of the cluster",
		Long: `Takes Drayage's APIService and webhook configurations out of the cluster, the APIService first: one
without a server stalls the deletion of every namespace. It is the first step of an uninstallation.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			restConfig, err := cfg.restConfig()
			if err != nil {
				return err
			}
			return unregister(ctrl.SetupSignalHandler(), restConfig)
		},
	}
}

func newReleasePodsCommand(cfg *Config) *cobra.Command {
	settle, timeout := 10*time.Second, 5*time.Minute
	command := &cobra.Command{
		Use:   "release-pods",
		Short: "Take Drayage's finalizer off all pods, and say that nothing is known of its nodes",
		Long: `Takes the finalizer ` + dcorev1.NodeFinalizer + ` off every Drayage pod, so that pods, and the namespaces that hold
them, can be deleted when no agent is left to do it, and sets the conditions of every Drayage Node to Unknown, since
nobody reports them any more. It comes after all of Drayage has been told to end.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			restConfig, err := cfg.restConfig()
			if err != nil {
				return err
			}
			return release(ctrl.SetupSignalHandler(), restConfig, settle, timeout)
		},
	}
	command.Flags().DurationVar(&settle, "settle", settle, "how long no new pod may have the finalizer and no node be reported: managers and agents may still be ending")
	command.Flags().DurationVar(&timeout, "timeout", timeout, "how long to try")
	return command
}

// unregister deletes the registrations, in order. What is gone already is not missed.
func unregister(ctx context.Context, restConfig *rest.Config) error {
	registrations, err := dynamic.NewForConfig(restConfig)
	if err != nil {
		return err
	}
	var errs []error
	for _, registration := range certs.Registrations() {
		err := registrations.Resource(registration.Resource).Delete(ctx, registration.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("deleting %s %s: %w", registration.Resource.Resource, registration.Name, err))
		}
	}
	return errors.Join(errs...)
}

// release takes our finalizer off every pod and says of every node that nothing is known about it, until there has been
// nothing to do for settle.
func release(ctx context.Context, restConfig *rest.Config, settle, timeout time.Duration) error {
	metadataClient, err := metadata.NewForConfig(restConfig)
	if err != nil {
		return err
	}
	nodes, err := client.New(restConfig, client.Options{Scheme: scheme.New()})
	if err != nil {
		return err
	}
	pods := metadataClient.Resource(dcorev1.GroupVersion.WithResource("pods"))
	var last error
	start, quietSince := time.Now(), time.Now()
	err = wait.PollUntilContextTimeout(ctx, releasePeriod, timeout, true, func(ctx context.Context) (bool, error) {
		released, podsErr := releasePass(ctx, pods)
		abandoned, nodesErr := abandonPass(ctx, nodes)
		last = errors.Join(podsErr, nodesErr)
		if last != nil || released > 0 || abandoned > 0 && time.Since(start) < abandonPatience {
			quietSince = time.Now()
		}
		return time.Since(quietSince) >= settle, nil
	})
	if err != nil {
		return fmt.Errorf("taking the finalizer %s off all pods and abandoning all nodes: %w", dcorev1.NodeFinalizer, errors.Join(last, err))
	}
	return nil
}

// abandonPass says of every node that nothing is known about it, and returns of how many it had to.
func abandonPass(ctx context.Context, nodes client.Client) (abandoned int, err error) {
	var errs []error
	for next := ""; ; {
		list := &dcorev1.NodeList{}
		err := nodes.List(ctx, list, client.Limit(releasePage), client.Continue(next))
		switch {
		case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
			return abandoned, nil // the kinds are gone, and the nodes with them
		case err != nil:
			return abandoned, errors.Join(append(errs, err)...)
		}
		for i := range list.Items {
			base := list.Items[i].DeepCopy()
			node.Abandon(&list.Items[i], time.Now())
			if equality.Semantic.DeepEqual(base.Status, list.Items[i].Status) {
				continue
			}
			abandoned++
			patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
			err := nodes.Status().Patch(ctx, &list.Items[i], patch, client.FieldOwner("dray-manager"))
			// A conflict is settled by the next look.
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				errs = append(errs, fmt.Errorf("node %s: %w", base.Name, err))
			}
		}
		if next = list.Continue; next == "" {
			return abandoned, errors.Join(errs...)
		}
	}
}

func releasePass(ctx context.Context, pods metadata.Getter) (released int, err error) {
	var errs []error
	for next := ""; ; {
		list, err := pods.List(ctx, metav1.ListOptions{Limit: releasePage, Continue: next})
		switch {
		case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
			return released, nil // the kinds are gone, and the pods with them
		case err != nil:
			return released, errors.Join(append(errs, err)...)
		}
		for i := range list.Items {
			changed, err := releasePod(ctx, pods, &list.Items[i])
			if err != nil {
				errs = append(errs, fmt.Errorf("pod %s/%s: %w", list.Items[i].Namespace, list.Items[i].Name, err))
			}
			if changed {
				released++
			}
		}
		if next = list.Continue; next == "" {
			return released, errors.Join(errs...)
		}
	}
}

func releasePod(ctx context.Context, pods metadata.Getter, pod *metav1.PartialObjectMetadata) (bool, error) {
	kept := slices.DeleteFunc(slices.Clone(pod.Finalizers), func(name string) bool { return name == dcorev1.NodeFinalizer })
	if len(kept) == len(pod.Finalizers) {
		return false, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"finalizers": kept, "resourceVersion": pod.ResourceVersion}})
	if err != nil {
		return false, err
	}
	_, err = pods.Namespace(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "dray-manager"})
	// A conflict is settled by the next look.
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return true, nil
	}
	return err == nil, err
}
