package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	ctrladmission "sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/admission"
)

// The paths at which Register serves.
const (
	MutatePath   = "/mutate"
	ValidatePath = "/validate"
)

// Register serves admission on a webhook server: MutatePath prepares and validates, ValidatePath
// validates once more. Reads go to the client's cache first, then to live; the client needs the right to
// patch pods.
func Register(server webhook.Server, cached client.Client, live client.Reader) {
	r := &reviewer{lookup: admission.NewLookup(cached, live), pods: clientPatcher{cached}}
	server.Register(MutatePath, &webhook.Admission{Handler: ctrladmission.HandlerFunc(r.mutate)})
	server.Register(ValidatePath, &webhook.Admission{Handler: ctrladmission.HandlerFunc(r.validate)})
}

func (r *reviewer) mutate(ctx context.Context, req ctrladmission.Request) ctrladmission.Response {
	return r.respond(ctx, &req, true)
}

func (r *reviewer) validate(ctx context.Context, req ctrladmission.Request) ctrladmission.Response {
	return r.respond(ctx, &req, false)
}

func (r *reviewer) respond(ctx context.Context, req *ctrladmission.Request, mutate bool) ctrladmission.Response {
	asked, err := decodeRequest(req)
	if err != nil {
		return ctrladmission.Errored(http.StatusBadRequest, err)
	}
	warnings, err := r.review(ctx, asked, mutate)
	if err != nil {
		response := refused(err)
		response.AuditAnnotations = asked.audit
		return response
	}
	response := ctrladmission.Allowed("")
	if mutate && asked.object != nil {
		after, err := json.Marshal(asked.object)
		if err != nil {
			return ctrladmission.Errored(http.StatusInternalServerError, fmt.Errorf("encoding the prepared object: %w", err))
		}
		response = ctrladmission.PatchResponseFromRaw(req.Object.Raw, after)
	}
	response.AuditAnnotations = asked.audit
	return response.WithWarnings(warnings...)
}

func decodeRequest(req *ctrladmission.Request) (*request, error) {
	asked := &request{
		resource:    schema.GroupResource{Group: req.Resource.Group, Resource: req.Resource.Resource},
		subresource: req.SubResource,
		operation:   req.Operation,
		dryRun:      req.DryRun != nil && *req.DryRun,
	}
	for _, part := range []struct {
		raw  runtime.RawExtension
		into any
	}{{req.Object, &asked.object}, {req.OldObject, &asked.old}} {
		if len(part.raw.Raw) == 0 {
			continue
		}
		if err := utiljson.Unmarshal(part.raw.Raw, part.into); err != nil {
			return nil, fmt.Errorf("decoding the object of an admission request: %w", err)
		}
	}
	if req.Operation == admissionv1.Delete && len(req.Options.Raw) > 0 {
		asked.options = &metav1.DeleteOptions{}
		if err := json.Unmarshal(req.Options.Raw, asked.options); err != nil {
			return nil, fmt.Errorf("decoding the options of a deletion: %w", err)
		}
	}
	return asked, nil
}

// refused keeps the error's code, reason and causes, which the API server hands on.
func refused(err error) ctrladmission.Response {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return ctrladmission.Errored(http.StatusInternalServerError, err)
	}
	result := status.Status()
	return ctrladmission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: false, Result: &result}}
}

// clientPatcher patches pods with a client.
type clientPatcher struct{ client client.Client }

// PatchPod implements admission.PodPatcher.
func (p clientPatcher) PatchPod(ctx context.Context, namespace, name string, mergePatch []byte) (*metav1.ObjectMeta, error) {
	pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	err := p.client.Patch(ctx, pod, client.RawPatch(types.MergePatchType, mergePatch), client.FieldOwner(fieldManager))
	return &pod.ObjectMeta, err
}
