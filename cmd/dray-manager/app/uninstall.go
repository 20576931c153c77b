package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray-manager/certs"
)

const (
	// releasePage is how many pods are read at once.
	releasePage = 500
	// releasePeriod is the time between two looks at all pods.
	releasePeriod = 2 * time.Second
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
		Short: "Take Drayage's finalizer off all pods",
		Long: `Takes the finalizer ` + dcorev1.NodeFinalizer + ` off every Drayage pod, so that pods, and the namespaces that hold
them, can be deleted when no agent is left to do it. It is the last step of an uninstallation.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			restConfig, err := cfg.restConfig()
			if err != nil {
				return err
			}
			return releasePods(ctrl.SetupSignalHandler(), restConfig, settle, timeout)
		},
	}
	command.Flags().DurationVar(&settle, "settle", settle, "how long no new pod may have the finalizer: managers may still be ending")
	command.Flags().DurationVar(&timeout, "timeout", timeout, "how long to try")
	return command
}

// unregister deletes the registrations, in order. What is gone already is not missed.
func unregister(ctx context.Context, restConfig *rest.Config) error {
	client, err := dynamic.NewForConfig(restConfig)
	if err != nil {
		return err
	}
	var errs []error
	for _, registration := range certs.Registrations() {
		err := client.Resource(registration.Resource).Delete(ctx, registration.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("deleting %s %s: %w", registration.Resource.Resource, registration.Name, err))
		}
	}
	return errors.Join(errs...)
}

// releasePods takes our finalizer off every pod, until none has had it for settle.
func releasePods(ctx context.Context, restConfig *rest.Config, settle, timeout time.Duration) error {
	client, err := metadata.NewForConfig(restConfig)
	if err != nil {
		return err
	}
	pods := client.Resource(dcorev1.GroupVersion.WithResource("pods"))
	var last error
	quietSince := time.Now()
	err = wait.PollUntilContextTimeout(ctx, releasePeriod, timeout, true, func(ctx context.Context) (bool, error) {
		var released int
		if released, last = releasePass(ctx, pods); last != nil || released > 0 {
			quietSince = time.Now()
		}
		return time.Since(quietSince) >= settle, nil
	})
	if err != nil {
		return fmt.Errorf("taking the finalizer %s off all pods: %w", dcorev1.NodeFinalizer, errors.Join(last, err))
	}
	return nil
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
			changed, err := release(ctx, pods, &list.Items[i])
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

func release(ctx context.Context, pods metadata.Getter, pod *metav1.PartialObjectMetadata) (bool, error) {
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
