package controlplane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/klog/v2"

	"drayage.dev/controlplane/join"
)

const (
	// fieldManager owns what the control plane applies.
	fieldManager = "drayage-controlplane"

	// bootstrapTimeout bounds each step on the way to ready. A step takes a second or two; on a small machine that
	// is busy with other things it may take minutes, and to begin anew would not be quicker.
	bootstrapTimeout = 10 * time.Minute

	// sayAfter is how often a step that takes long says in the log what it waits for.
	sayAfter = 30 * time.Second

	pollInterval = 20 * time.Millisecond

	// createDelay is how long upstream holds back creates of a kind after it was established, for the
	// sake of other API servers that have not seen it yet.
	createDelay = 2 * time.Second
)

// poll tries until it succeeds, fails in a way that another attempt does not mend, or runs out of time; the error names
// what it waited for and why the last attempt failed.
func poll(ctx context.Context, what string, try func(context.Context) error) error {
	var last error
	said := time.Now()
	err := wait.PollUntilContextTimeout(ctx, pollInterval, bootstrapTimeout, true, func(ctx context.Context) (bool, error) {
		last = try(ctx)
		if last != nil && time.Since(said) > sayAfter {
			said = time.Now()
			klog.FromContext(ctx).Info("Waiting", "for", what, "reason", last.Error())
		}
		return last == nil || hopeless(last), nil
	})
	if err = errors.Join(err, last); err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

// hopeless tells whether the API server will say the same of the same request again. While it starts, or is starved of
// processors, it refuses and breaks off requests that it takes a moment later.
func hopeless(err error) bool { return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) }

// waitFor waits until the API server answers 200 at a path, with the named health checks left out.
func waitFor(ctx context.Context, config *rest.Config, path string, exclude ...string) error {
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	return poll(ctx, "the API server", func(ctx context.Context) error {
		var status int
		request := client.RESTClient().Get().AbsPath(path)
		for _, check := range exclude {
			request.Param("exclude", check)
		}
		result := request.Do(ctx).StatusCode(&status)
		if status != http.StatusOK {
			return errors.Join(result.Error(), fmt.Errorf("%s answers %d", path, status))
		}
		return nil
	})
}

// applyCRDs creates or upgrades the kinds and waits until the API server serves all of them. alone says
// that no other API server shares the storage.
func applyCRDs(ctx context.Context, config *rest.Config, crds []*apiextensionsv1.CustomResourceDefinition, alone bool) error {
	client, err := apiextensionsclient.NewForConfig(config)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, crd := range crds {
		group.Go(func() error {
			if err := poll(ctx, "the kind "+crd.Name+" to be applied", func(ctx context.Context) error { return applyCRD(ctx, client, crd) }); err != nil {
				return err
			}
			return poll(ctx, "the kind "+crd.Name, func(ctx context.Context) error { return established(ctx, client, crd, alone) })
		})
	}
	return group.Wait()
}

func applyCRD(ctx context.Context, client apiextensionsclient.Interface, crd *apiextensionsv1.CustomResourceDefinition) error {
	crds := client.ApiextensionsV1().CustomResourceDefinitions()
	options := metav1.CreateOptions{FieldManager: fieldManager}
	_, err := crds.Create(ctx, crd, options)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	current, err := crds.Get(ctx, crd.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	// An update with what is stored already changes nothing, not even the resource version.
	updated := current.DeepCopy()
	updated.Spec, updated.Annotations = *crd.Spec.DeepCopy(), crd.Annotations
	if updated.Spec.Conversion == nil {
		updated.Spec.Conversion = current.Spec.Conversion
	}
	_, err = crds.Update(ctx, updated, metav1.UpdateOptions{FieldManager: fieldManager})
	return err
}

// established returns nil once a kind is served. With a single API server it also sets the time since when
// back by what upstream would hold back creates for others.
func established(ctx context.Context, client apiextensionsclient.Interface, crd *apiextensionsv1.CustomResourceDefinition, alone bool) error {
	crds := client.ApiextensionsV1().CustomResourceDefinitions()
	current, err := crds.Get(ctx, crd.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	condition := apihelpers.FindCRDCondition(current, apiextensionsv1.Established)
	if condition == nil || condition.Status != apiextensionsv1.ConditionTrue {
		if names := apihelpers.FindCRDCondition(current, apiextensionsv1.NamesAccepted); names != nil && names.Status == apiextensionsv1.ConditionFalse {
			return errors.New(names.Message)
		}
		return errors.New("not established yet")
	}
	if alone && time.Since(condition.LastTransitionTime.Time) < createDelay {
		condition.LastTransitionTime = metav1.NewTime(condition.LastTransitionTime.Add(-createDelay - time.Second))
		if _, err := crds.UpdateStatus(ctx, current, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
			return err
		}
	}
	return nil
}

// waitDiscovery waits until clients can find every served version of the kinds.
func waitDiscovery(ctx context.Context, config *rest.Config, crds []*apiextensionsv1.CustomResourceDefinition) error {
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	return poll(ctx, "discovery", func(ctx context.Context) error {
		groups, err := discovery.ServerPreferredResources(client)
		// Somebody's aggregated API that does not answer must not keep the control plane from starting.
		if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
			return err
		}
		for _, crd := range crds {
			if !slices.ContainsFunc(groups, func(list *metav1.APIResourceList) bool { return lists(list, crd) }) {
				return fmt.Errorf("%s is not listed yet", crd.Name)
			}
		}
		return nil
	})
}

func lists(list *metav1.APIResourceList, crd *apiextensionsv1.CustomResourceDefinition) bool {
	for _, version := range crd.Spec.Versions {
		if list.GroupVersion != crd.Spec.Group+"/"+version.Name {
			continue
		}
		for _, resource := range list.APIResources {
			if resource.Name == crd.Spec.Names.Plural {
				return true
			}
		}
	}
	return false
}

// applyObjects applies objects in order, namespaces before what is in them. What others added stays.
func applyObjects(ctx context.Context, config *rest.Config, objects []*unstructured.Unstructured) error {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))
	objects = slices.Clone(objects)
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return namespacesFirst(a) - namespacesFirst(b) })
	for _, object := range objects {
		kind := object.GroupVersionKind()
		err := poll(ctx, fmt.Sprintf("%s %s to be applied", kind.Kind, object.GetName()), func(ctx context.Context) error {
			mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
			if err != nil {
				return err
			}
			resource := client.Resource(mapping.Resource).Namespace(object.GetNamespace())
			_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func namespacesFirst(object *unstructured.Unstructured) int {
	if object.GetKind() == "Namespace" {
		return 0
	}
	return 1
}

// ensureToken makes a join token at a control plane's first start and leaves it in a file. The file is under
// another name until the API server knows the token, so that a crash in between loses nothing; once it has
// its name, the token is the administrator's to delete.
func ensureToken(ctx context.Context, config *rest.Config, path string, authority *x509.Certificate) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh, err := join.NewToken(authority)
	if err != nil {
		return err
	}
	pending := path + ".pending"
	line, err := readOrCreate(pending, fresh.String)
	if err != nil {
		return fmt.Errorf("keeping the join token: %w", err)
	}
	token, err := join.ParseToken(line)
	if err != nil {
		return fmt.Errorf("reading %s: %w", pending, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	store := func(ctx context.Context) error {
		return join.StoreToken(ctx, client, token, 0, "made at the first start")
	}
	if err := poll(ctx, "the join token to be stored", store); err != nil {
		return err
	}
	return os.Rename(pending, path)
}
