package delete

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	dcorev1 "drayage.dev/apis/core/v1"
)

// podPath matches the path of one of Drayage's pods.
var podPath = regexp.MustCompile(`/apis/core\.drayage\.dev/v1/namespaces/[^/]+/pods/[^/]+$`)

// maxConflicts bounds how often taking the finalizer off is tried anew on a newer version of the pod.
const maxConflicts = 5

// graceful makes the grace period of a pod's DELETE known to the pod's node.
type graceful struct {
	below http.RoundTripper
	// force takes the node's finalizer off behind the DELETE.
	force bool
}

func (g *graceful) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Method != http.MethodDelete || !podPath.MatchString(request.URL.Path) || request.Body == nil {
		return g.below.RoundTrip(request)
	}
	body, err := io.ReadAll(request.Body)
	_ = request.Body.Close()
	if err != nil {
		return nil, err
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	var options metav1.DeleteOptions
	if err := json.Unmarshal(body, &options); err != nil {
		return nil, fmt.Errorf("reading the options of the deletion: %w", err)
	}
	if len(options.DryRun) > 0 || options.GracePeriodSeconds == nil {
		return g.below.RoundTrip(request)
	}

	annotation := map[string]any{"metadata": map[string]any{"annotations": map[string]any{
		dcorev1.DeletionGracePeriodAnnotation: strconv.FormatInt(max(0, *options.GracePeriodSeconds), 10),
	}}}
	// A pod that has gone is reported by the DELETE, in kubectl's words. Whoever may not patch the pod hears
	// so and deletes nothing: it would end with another grace period than asked for.
	response, err := g.patch(request, annotation)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= http.StatusBadRequest && response.StatusCode != http.StatusNotFound {
		return response, nil
	}
	_ = response.Body.Close()

	response, err = g.below.RoundTrip(request)
	if err != nil || !g.force || response.StatusCode >= http.StatusBadRequest {
		return response, err
	}
	if err := g.release(request); err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	return response, nil
}

// release takes the node's finalizer off. Other finalizers stay: they are somebody else's.
func (g *graceful) release(request *http.Request) error {
	for attempt := 1; ; attempt++ {
		var pod metav1.PartialObjectMetadata
		status, err := g.get(request, &pod)
		if err != nil || status == http.StatusNotFound {
			return err
		}
		rest := slices.DeleteFunc(slices.Clone(pod.Finalizers), func(f string) bool { return f == dcorev1.NodeFinalizer })
		if pod.DeletionTimestamp == nil || len(rest) == len(pod.Finalizers) {
			return nil // another pod of the same name by now, or done
		}
		response, err := g.patch(request, map[string]any{"metadata": map[string]any{
			"uid": pod.UID, "resourceVersion": pod.ResourceVersion, "finalizers": rest,
		}})
		if err != nil {
			return err
		}
		defer response.Body.Close()
		switch {
		case response.StatusCode < http.StatusBadRequest, response.StatusCode == http.StatusNotFound:
			return nil
		case response.StatusCode == http.StatusConflict && attempt < maxConflicts:
		default:
			text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
			return fmt.Errorf("taking the finalizer %s off pod %s/%s: %s", dcorev1.NodeFinalizer, pod.Namespace, pod.Name, bytes.TrimSpace(text))
		}
	}
}

func (g *graceful) get(request *http.Request, pod *metav1.PartialObjectMetadata) (int, error) {
	response, err := g.below.RoundTrip(derive(request, http.MethodGet, nil))
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return response.StatusCode, nil
	}
	if response.StatusCode >= http.StatusBadRequest {
		return 0, fmt.Errorf("reading the pod that is being deleted: %s", response.Status)
	}
	return response.StatusCode, json.NewDecoder(response.Body).Decode(pod)
}

func (g *graceful) patch(request *http.Request, patch any) (*http.Response, error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	return g.below.RoundTrip(derive(request, http.MethodPatch, body))
}

// derive returns a request about the same pod.
func derive(request *http.Request, method string, body []byte) *http.Request {
	derived := request.Clone(context.WithoutCancel(request.Context()))
	derived.Method, derived.Body, derived.ContentLength = method, nil, 0
	derived.URL = &url.URL{Scheme: request.URL.Scheme, Host: request.URL.Host, Path: request.URL.Path}
	derived.Header.Set("Accept", "application/json")
	derived.Header.Del("Content-Type")
	if body != nil {
		derived.Body, derived.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		derived.Header.Set("Content-Type", string(types.MergePatchType))
	}
	return derived
}
