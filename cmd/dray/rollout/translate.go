package rollout

import (
	"bytes"
	"io"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

const (
	theirPath, ourPath = "/apis/apps/v1/", "/apis/apps.drayage.dev/v1/"
	theirs, ours       = `"apiVersion":"apps/v1"`, `"apiVersion":"apps.drayage.dev/v1"`
)

// translator sends requests for apps/v1 to Drayage's group, and names apps/v1 in the answers.
type translator struct{ below http.RoundTripper }

func (t *translator) RoundTrip(request *http.Request) (*http.Response, error) {
	if !strings.HasPrefix(request.URL.Path, theirPath) {
		return t.below.RoundTrip(request)
	}
	request = request.Clone(request.Context())
	request.URL.Path = ourPath + strings.TrimPrefix(request.URL.Path, theirPath)
	request.URL.RawPath = ""
	// The rollout commands' strategic merge patches set a field or an annotation, which a merge patch says
	// in the same words; custom resources take no strategic ones.
	if request.Header.Get("Content-Type") == string(types.StrategicMergePatchType) {
		request.Header.Set("Content-Type", string(types.MergePatchType))
	}
	response, err := t.below.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = &replacer{from: response.Body, old: []byte(ours), new: []byte(theirs)}
	response.ContentLength = -1
	response.Header.Del("Content-Length")
	return response, nil
}

// replacer reads from a stream and replaces old by new in it. It never holds back more than what may be
// the beginning of old, so that a watch's events come through as they arrive.
//
// In the API server's JSON old can only be the field itself: within a string its quotes are escaped.
type replacer struct {
	from     io.ReadCloser
	old, new []byte
	// raw is read and not yet searched to its end, ready is to be handed out.
	raw, ready []byte
	err        error
}

func (r *replacer) Read(p []byte) (int, error) {
	for len(r.ready) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		chunk := make([]byte, 32<<10)
		n, err := r.from.Read(chunk)
		r.raw, r.err = append(r.raw, chunk[:n]...), err
		r.raw = bytes.ReplaceAll(r.raw, r.old, r.new)
		hold := 0
		if err == nil {
			hold = overlap(r.raw, r.old)
		}
		r.ready = append(r.ready, r.raw[:len(r.raw)-hold]...)
		r.raw = append([]byte(nil), r.raw[len(r.raw)-hold:]...)
	}
	n := copy(p, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

func (r *replacer) Close() error { return r.from.Close() }

// overlap returns the length of the longest end of data that begins pattern.
func overlap(data, pattern []byte) int {
	for n := min(len(data), len(pattern)-1); n > 0; n-- {
		if bytes.HasSuffix(data, pattern[:n]) {
			return n
		}
	}
	return 0
}

// ownNames gives printed objects Drayage's group back: "deployment.apps/web restarted" and the apiVersion
// of printed objects.
type ownNames struct{ to io.Writer }

func (w *ownNames) Write(p []byte) (int, error) {
	text := strings.NewReplacer(
		"deployment.apps/", "deployment.apps.drayage.dev/",
		"apiVersion: apps/v1\n", "apiVersion: apps.drayage.dev/v1\n",
		`"apiVersion": "apps/v1"`, `"apiVersion": "apps.drayage.dev/v1"`,
	).Replace(string(p))
	if _, err := io.WriteString(w.to, text); err != nil {
		return 0, err
	}
	return len(p), nil
}
