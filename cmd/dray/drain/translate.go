package drain

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/cmd/dray/client"
)

// getter gives kubectl's commands an API server whose nodes and pods are Drayage's.
type getter struct{ *client.Flags }

// ToRESTConfig returns how to reach it.
func (g *getter) ToRESTConfig() (*rest.Config, error) {
	config, err := g.Flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config = client.Translate(config, ourPath)
	config.Wrap(func(below http.RoundTripper) http.RoundTripper { return explainer{below} })
	return config, nil
}

// ToRESTMapper knows nodes and pods, and needs no discovery.
func (g *getter) ToRESTMapper() (meta.RESTMapper, error) {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion})
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	return mapper, nil
}

var (
	evictionPath = regexp.MustCompile(`^/api/v1(/namespaces/[^/]+/pods/[^/]+/` + subresourcesv1alpha1.EvictionSubresource + `)$`)
	objectPath   = regexp.MustCompile(`^/api/v1((?:/namespaces/[^/]+)?/(?:pods|nodes)(?:/[^/]+)?)$`)
)

// ourPath returns where the API server keeps what upstream keeps under path.
func ourPath(path string) (translated string, object bool) {
	subresources := "/apis/" + subresourcesv1alpha1.GroupVersion.String()
	if path == "/api/v1" {
		// kubectl looks there for pods/eviction.
		return subresources, false
	}
	if match := evictionPath.FindStringSubmatch(path); match != nil {
		return subresources + match[1], false
	}
	if match := objectPath.FindStringSubmatch(path); match != nil {
		return "/apis/" + dcorev1.GroupVersion.String() + match[1], true
	}
	return path, false
}

// explainer puts the reasons of a refused request, a budget's name among them, into its message: kubectl
// prints that alone.
type explainer struct{ below http.RoundTripper }

// RoundTrip sends one request.
func (e explainer) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := e.below.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusTooManyRequests {
		return response, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	_ = response.Body.Close()
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(explained(body)))
	response.ContentLength = -1
	response.Header.Del("Content-Length")
	return response, nil
}

func explained(body []byte) []byte {
	var status metav1.Status
	if json.Unmarshal(body, &status) != nil || status.Details == nil || len(status.Details.Causes) == 0 {
		return body
	}
	reasons := make([]string, len(status.Details.Causes))
	for i, cause := range status.Details.Causes {
		reasons[i] = cause.Message
	}
	status.Message += " " + strings.Join(reasons, "; ")
	fresh, err := json.Marshal(status)
	if err != nil {
		return body
	}
	return fresh
}
