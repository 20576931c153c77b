package webhooks

import (
	"context"
	"errors"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiadmission "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	podsecurity "k8s.io/pod-security-admission/api"

	dcorev1 "drayage.dev/apis/core/v1"
)

// PluginName is the name of the in-process admission plugin.
const PluginName = "Drayage"

// Plugin is the in-process admission plugin. The API server's initializers hand it its clients.
type Plugin struct {
	*apiadmission.Handler
	reviewer
	objects *informerLookup
	dynamic dynamic.Interface
}

var (
	_ apiadmission.MutationInterface               = &Plugin{}
	_ apiadmission.ValidationInterface             = &Plugin{}
	_ initializer.WantsExternalKubeClientSet       = &Plugin{}
	_ initializer.WantsExternalKubeInformerFactory = &Plugin{}
	_ initializer.WantsDynamicClient               = &Plugin{}
	_ initializer.WantsDrainedNotification         = &Plugin{}
)

// NewPlugin returns the plugin for an API server that hands out clients and informers by upstream's
// initializers.
func NewPlugin() (apiadmission.Interface, error) {
	p := &Plugin{
		Handler: apiadmission.NewHandler(apiadmission.Create, apiadmission.Update, apiadmission.Delete),
		objects: &informerLookup{},
	}
	p.reviewer = reviewer{lookup: p.objects, pods: p}
	return p, nil
}

// SetExternalKubeClientSet gives the plugin its client for service accounts and namespaces.
func (p *Plugin) SetExternalKubeClientSet(client kubernetes.Interface) { p.objects.client = client }

// SetExternalKubeInformerFactory gives the plugin its caches of service accounts and namespaces.
func (p *Plugin) SetExternalKubeInformerFactory(factory informers.SharedInformerFactory) {
	accounts, namespaces := factory.Core().V1().ServiceAccounts(), factory.Core().V1().Namespaces()
	p.objects.accounts, p.objects.namespaces = accounts.Lister(), namespaces.Lister()
	accountsSynced, namespacesSynced := accounts.Informer().HasSynced, namespaces.Informer().HasSynced
	p.SetReadyFunc(func() bool { return accountsSynced() && namespacesSynced() })
}

// SetDynamicClient gives the plugin its client for Drayage's kinds.
func (p *Plugin) SetDynamicClient(client dynamic.Interface) {
	p.dynamic, p.objects.dynamic = client, client
}

// SetDrainedNotification gives the plugin the channel that ends its cache.
func (p *Plugin) SetDrainedNotification(stop <-chan struct{}) { p.objects.stop = stop }

// ValidateInitialization says whether everything has been handed out.
func (p *Plugin) ValidateInitialization() error {
	switch {
	case p.objects.client == nil || p.dynamic == nil:
		return errors.New("missing client")
	case p.objects.accounts == nil:
		return errors.New("missing service account lister")
	}
	return nil
}

// Admit prepares and validates.
func (p *Plugin) Admit(ctx context.Context, attributes apiadmission.Attributes, _ apiadmission.ObjectInterfaces) error {
	return p.handle(ctx, attributes, true)
}

// Validate validates once more.
func (p *Plugin) Validate(ctx context.Context, attributes apiadmission.Attributes, _ apiadmission.ObjectInterfaces) error {
	return p.handle(ctx, attributes, false)
}

func (p *Plugin) handle(ctx context.Context, attributes apiadmission.Attributes, mutate bool) error {
	resource := attributes.GetResource().GroupResource()
	if kinds[resource] == nil {
		return nil
	}
	if !p.WaitForReady() {
		return apiadmission.NewForbidden(attributes, errors.New("not yet ready to handle request"))
	}
	options, _ := attributes.GetOperationOptions().(*metav1.DeleteOptions)
	asked := &request{
		resource:    resource,
		subresource: attributes.GetSubresource(),
		operation:   admissionv1.Operation(attributes.GetOperation()),
		object:      content(attributes.GetObject()),
		old:         content(attributes.GetOldObject()),
		options:     options,
		dryRun:      attributes.IsDryRun(),
	}
	warnings, err := p.review(ctx, asked, mutate)
	for key, text := range asked.audit {
		// It refuses a second text for a key, which nobody else writes for our kinds.
		_ = attributes.AddAnnotation(podsecurity.AuditAnnotationPrefix+key, text)
	}
	for _, text := range warnings {
		warning.AddWarning(ctx, "", text)
	}
	return err
}

// content is the content of a custom resource; nil for a scale or for no object.
func content(object runtime.Object) map[string]any {
	if u, ok := object.(*unstructured.Unstructured); ok {
		return u.Object
	}
	return nil
}

// PatchPod implements admission.PodPatcher with the API server's own identity: whoever may delete a pod
// may say how much time it gets.
func (p *Plugin) PatchPod(ctx context.Context, namespace, name string, mergePatch []byte) (*metav1.ObjectMeta, error) {
	pods := p.dynamic.Resource(dcorev1.GroupVersion.WithResource("pods")).Namespace(namespace)
	pod, err := pods.Patch(ctx, name, types.MergePatchType, mergePatch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return nil, err
	}
	return &metav1.ObjectMeta{
		ResourceVersion: pod.GetResourceVersion(), DeletionTimestamp: pod.GetDeletionTimestamp(), Finalizers: pod.GetFinalizers(),
		Annotations: pod.GetAnnotations(),
	}, nil
}

// fieldManager is the owner of what admission writes outside of the request at hand.
const fieldManager = "drayage-admission"
