// Package schema decodes rendered manifests as strictly as an API server with full field validation: a field that a
// kind does not have fails. `make scan` and the specs of the chart call it.
package schema

import (
	"errors"
	"fmt"
	"io"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"drayage.dev/internal/scheme"
)

// maxDocument bounds one document: API servers take no larger one.
const maxDocument = 3 << 20

// foreign are the kinds that are neither Kubernetes' nor ours and may be in the chart.
var foreign = map[string]bool{
	"monitoring.coreos.com/v1 PodMonitor": true, "monitoring.coreos.com/v1 ServiceMonitor": true,
	"cert-manager.io/v1 Certificate": true, "cert-manager.io/v1 Issuer": true,
}

// Decode decodes a stream of YAML documents into the types of Kubernetes and of Drayage. Those of other
// operators stay as they are; any other kind fails.
func Decode(stream string) (objects []runtime.Object, err error) {
	known := scheme.New()
	utilruntime.Must(apiextensionsv1.AddToScheme(known))
	utilruntime.Must(apiregistrationv1.AddToScheme(known))
	decoder := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	reader := utilyaml.NewDocumentDecoder(io.NopCloser(strings.NewReader(stream)))
	buffer := make([]byte, maxDocument)
	for {
		n, err := reader.Read(buffer)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading document %d: %w", len(objects)+1, err)
		}
		document := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(buffer[:n])), "---"))
		if onlyComments(document) {
			continue
		}
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if runtime.IsNotRegisteredError(err) {
			object, err = other(document, err)
		}
		if err != nil {
			return nil, fmt.Errorf("decoding %q: %w", firstLines(document), err)
		}
		objects = append(objects, object)
	}
}

func other(document string, unknown error) (runtime.Object, error) {
	object := &unstructured.Unstructured{}
	if err := utilyaml.Unmarshal([]byte(document), &object.Object); err != nil {
		return nil, err
	}
	if !foreign[object.GetAPIVersion()+" "+object.GetKind()] {
		return nil, unknown
	}
	return object, nil
}

func onlyComments(document string) bool {
	for line := range strings.Lines(document) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

func firstLines(document string) string {
	lines := strings.SplitN(document, "\n", 7)
	return strings.Join(lines[:min(len(lines), 6)], "\n")
}
