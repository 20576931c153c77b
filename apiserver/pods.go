package apiserver

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/kubelet/client"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	podrest "k8s.io/kubernetes/pkg/registry/core/pod/rest"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

// Upstream's handlers do exec, attach and port-forward, translation of WebSockets included. They only
// need telling what their options are called outside upstream's group.

type execREST struct{ *podrest.ExecREST }

func (*execREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return corev1.SchemeGroupVersion.WithKind("PodExecOptions")
}

type attachREST struct{ *podrest.AttachREST }

func (*attachREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return corev1.SchemeGroupVersion.WithKind("PodAttachOptions")
}

type portForwardREST struct{ *podrest.PortForwardREST }

func (*portForwardREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return corev1.SchemeGroupVersion.WithKind("PodPortForwardOptions")
}

// logREST is pods/log. Upstream's is bound to upstream's storage of pods.
type logREST struct {
	statusKind
	pods  pod.ResourceGetter
	nodes client.ConnectionInfoGetter
}

var (
	_ rest.GetterWithOptions = &logREST{}
	_ rest.StorageMetadata   = &logREST{}
)

// NewGetOptions returns what the query is read into.
func (*logREST) NewGetOptions() (runtime.Object, bool, string) {
	return &core.PodLogOptions{}, false, ""
}

// ProducesMIMETypes says that a log is text.
func (*logREST) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject says, to the documentation of the API, that a log is a string.
func (*logREST) ProducesObject(string) any { return "" }

// OverrideMetricsVerb keeps the duration of followed logs out of the latency of reads.
func (*logREST) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

// Get returns a stream of the log of one container. A pod that is not bound yet has an empty log.
func (r *logREST) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	opts, ok := options.(*core.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("reading log options: unexpected type %T", options)
	}
	split := utilfeature.DefaultFeatureGate.Enabled(features.PodLogsQuerySplitStreams)
	if split && opts.Stream == nil {
		opts.Stream = new(core.LogStreamAll)
	}
	if errs := validation.ValidatePodLogOptions(opts, split); len(errs) > 0 {
		return nil, apierrors.NewInvalid(core.Kind("PodLogOptions"), name, errs)
	}
	// There is no way round the verification of a node: its certificate is the cluster's own.
	opts.InsecureSkipTLSVerifyBackend = false
	location, transport, err := pod.LogLocation(ctx, r.pods, r.nodes, name, opts)
	if err != nil {
		return nil, err
	}
	return &logStream{&genericrest.LocationStreamer{
		Location:    location,
		Transport:   transport,
		ContentType: "text/plain",
		Flush:       opts.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(
			subresourcesv1alpha1.Resource(podsPath(subresourcesv1alpha1.LogSubresource)), name),
		RedirectChecker: genericrest.PreventRedirects,
	}}, nil
}

// logStream turns errors of the connection to a node into a status.
type logStream struct{ *genericrest.LocationStreamer }

var _ rest.ResourceStreamer = &logStream{}

// InputStream opens the log.
func (s *logStream) InputStream(ctx context.Context, apiVersion, accept string) (io.ReadCloser, bool, string, error) {
	stream, flush, contentType, err := s.LocationStreamer.InputStream(ctx, apiVersion, accept)
	if err != nil {
		err = unavailable(ctx, fmt.Errorf("reading the log: %w", err))
	}
	return stream, flush, contentType, err
}
