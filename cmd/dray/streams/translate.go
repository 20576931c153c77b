package streams

import (
	"bufio"
	"io"
	"net/http"
	"regexp"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/cmd/dray/client"
)

// getter gives kubectl's commands an API server whose pods are Drayage's.
type getter struct{ *client.Flags }

// ToRESTConfig returns how to reach it.
func (g *getter) ToRESTConfig() (*rest.Config, error) {
	config, err := g.Flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	// What is translated is JSON.
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.Wrap(func(below http.RoundTripper) http.RoundTripper { return &translator{below} })
	return config, nil
}

// ToRESTMapper knows the kinds that lead to pods, and needs no discovery.
func (g *getter) ToRESTMapper() (meta.RESTMapper, error) {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion})
	for _, kind := range []schema.GroupVersionKind{
		corev1.SchemeGroupVersion.WithKind("Pod"), corev1.SchemeGroupVersion.WithKind("Service"),
		appsv1.SchemeGroupVersion.WithKind("Deployment"), appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
	} {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	return mapper, nil
}

// streamPath matches the subresources of a pod that are streams.
var streamPath = regexp.MustCompile(`^/api/v1(/namespaces/[^/]+/pods/[^/]+/(log|exec|attach|portforward))$`)

// objectPath matches the collections and objects that lead to a pod.
var objectPath = regexp.MustCompile(`^(?:/api/v1|(/apis/apps/v1))(/namespaces/[^/]+/(?:pods|services|deployments|replicasets)(?:/[^/]+)?)$`)

// ourPath returns where the API server keeps what upstream keeps under path. The answer to a stream is no
// object and must not be translated; nor is what leads nowhere.
func ourPath(path string) (translated string, object bool) {
	if match := streamPath.FindStringSubmatch(path); match != nil {
		return "/apis/" + subresourcesv1alpha1.GroupVersion.String() + match[1], false
	}
	if match := objectPath.FindStringSubmatch(path); match != nil {
		group := dcorev1.GroupVersion
		if match[1] != "" {
			group = dappsv1.GroupVersion
		}
		return "/apis/" + group.String() + match[2], true
	}
	return path, false
}

// translator sends requests for upstream's groups to Drayage's, and names upstream's in the answers. It
// stands below streams as well: an upgraded connection passes it unchanged.
type translator struct{ below http.RoundTripper }

// RoundTrip sends one request.
func (t *translator) RoundTrip(request *http.Request) (*http.Response, error) {
	// The API server may stand below a path of its own, as behind a proxy.
	prefix, path := splitPrefix(request.URL.Path)
	translated, object := ourPath(path)
	if translated == path {
		return t.below.RoundTrip(request)
	}
	request = request.Clone(request.Context())
	request.URL.Path, request.URL.RawPath = prefix+translated, ""
	response, err := t.below.RoundTrip(request)
	if err != nil || !object {
		return response, err
	}
	response.Body = &lines{body: response.Body, reader: bufio.NewReader(response.Body)}
	response.ContentLength = -1
	response.Header.Del("Content-Length")
	return response, nil
}

// lines translates an answer line by line: an object or a list is one line, each event of a watch is one,
// and comes through when it arrives.
type lines struct {
	body   io.Closer
	reader *bufio.Reader
	ready  string
}

// Read returns translated bytes.
func (l *lines) Read(p []byte) (int, error) {
	if l.ready == "" {
		line, err := l.reader.ReadString('\n')
		if line == "" {
			return 0, err
		}
		l.ready = upstreamNames.Replace(line)
	}
	n := copy(p, l.ready)
	l.ready = l.ready[n:]
	return n, nil
}

// Close closes the answer.
func (l *lines) Close() error { return l.body.Close() }

// upstreamNames gives objects upstream's groups. In JSON these can only be the fields themselves: within
// a string their quotes are escaped.
var upstreamNames = strings.NewReplacer(
	`"apiVersion":"`+dcorev1.GroupVersion.String()+`"`, `"apiVersion":"`+corev1.SchemeGroupVersion.String()+`"`,
	`"apiVersion":"`+dappsv1.GroupVersion.String()+`"`, `"apiVersion":"`+appsv1.SchemeGroupVersion.String()+`"`,
)

// splitPrefix cuts a path in front of the API's own part of it.
func splitPrefix(path string) (prefix, rest string) {
	for _, start := range []string{"/api/v1/", "/apis/apps/v1/"} {
		if at := strings.Index(path, start); at >= 0 {
			return path[:at], path[at:]
		}
	}
	return "", path
}
