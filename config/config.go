package config

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

//go:embed crd/*.yaml rbac/*.yaml policies/*.yaml flowcontrol/*.yaml
var files embed.FS

// CRDs returns the custom resource definitions of every Drayage kind, in name order.
func CRDs() ([]*apiextensionsv1.CustomResourceDefinition, error) {
	var crds []*apiextensionsv1.CustomResourceDefinition
	err := eachFile("crd", func(name string, data []byte) error {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := sigsyaml.UnmarshalStrict(data, crd); err != nil {
			return fmt.Errorf("decoding %s: %w", name, err)
		}
		crds = append(crds, crd)
		return nil
	})
	return crds, err
}

// RBAC returns the roles and bindings of the components (config/rbac), in file and document order.
func RBAC() ([]*unstructured.Unstructured, error) { return objects("rbac") }

// Policies returns the admission policies with their bindings (config/policies), in file and document order:
// who may bind pods, and what a node's identity may write. They name the agents' service account as
// AgentServiceAccount in the namespace drayage-system; who installs it elsewhere puts its name there.
func Policies() ([]*unstructured.Unstructured, error) { return objects("policies") }

// FlowControl returns the flow schemas of the embedded API server (config/flowcontrol), in document order.
func FlowControl() ([]*unstructured.Unstructured, error) { return objects("flowcontrol") }

// AgentServiceAccount is the user that the agents of an installation in the namespace drayage-system are. Which
// node's agent it is, its token says.
const AgentServiceAccount = "system:serviceaccount:drayage-system:drayage-agent"

func objects(dir string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	err := eachFile(dir, func(name string, data []byte) error {
		decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
		for {
			object := &unstructured.Unstructured{}
			switch err := decoder.Decode(&object.Object); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return fmt.Errorf("decoding %s: %w", name, err)
			case len(object.Object) > 0:
				objects = append(objects, object)
			}
		}
	})
	return objects, err
}

func eachFile(dir string, visit func(name string, data []byte) error) error {
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := dir + "/" + entry.Name()
		data, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		if err := visit(name, data); err != nil {
			return err
		}
	}
	return nil
}
