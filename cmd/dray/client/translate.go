package client

import (
	"bufio"
	"io"
	"net/http"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

// Translate returns a config whose requests, made by a client that knows upstream's kinds only, meet Drayage's.
// ourPath says where the API server keeps what upstream keeps under a path, and whether the answer is an
// object, whose groups are named as upstream names them. Streams pass unchanged.
//
// Custom resources take no strategic merge patches: those of the commands that are translated replace fields
// and whole lists, which a merge patch says in the same words.
func Translate(config *rest.Config, ourPath func(path string) (translated string, object bool)) *rest.Config {
	config = rest.CopyConfig(config)
	// What is translated is JSON.
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.Wrap(func(below http.RoundTripper) http.RoundTripper { return &translator{below, ourPath} })
	return config
}

// translator sends requests for upstream's groups to Drayage's, and names upstream's in the answers.
type translator struct {
	below   http.RoundTripper
	ourPath func(string) (string, bool)
}

// RoundTrip sends one request.
func (t *translator) RoundTrip(request *http.Request) (*http.Response, error) {
	// The API server may stand below a path of its own, as behind a proxy.
	prefix, path := splitPrefix(request.URL.Path)
	translated, object := t.ourPath(path)
	if translated == path {
		return t.below.RoundTrip(request)
	}
	request = request.Clone(request.Context())
	request.URL.Path, request.URL.RawPath = prefix+translated, ""
	if request.Header.Get("Content-Type") == string(types.StrategicMergePatchType) {
		request.Header.Set("Content-Type", string(types.MergePatchType))
	}
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
	if root := "/api/v1"; strings.HasSuffix(path, root) {
		return strings.TrimSuffix(path, root), root
	}
	return "", path
}
