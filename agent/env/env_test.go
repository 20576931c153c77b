package env_test

import (
	"context"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"drayage.dev/agent/env"
)

// objects is what a pod may read, by name.
type objects struct {
	configMaps map[string]map[string]string
	secrets    map[string]map[string][]byte
	reads      int
}

func (o *objects) ConfigMap(_ context.Context, _ types.UID, name string) (*corev1.ConfigMap, error) {
	o.reads++
	data, found := o.configMaps[name]
	if !found {
		return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
	}
	return &corev1.ConfigMap{Data: data}, nil
}

func (o *objects) Secret(_ context.Context, _ types.UID, name string) (*corev1.Secret, error) {
	o.reads++
	data, found := o.secrets[name]
	if !found {
		return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
	}
	return &corev1.Secret{Data: data}, nil
}

var _ = Describe("Make", func() {
	var (
		pod     *corev1.Pod
		store   *objects
		sources env.Sources
	)

	BeforeEach(func() {
		pod = &corev1.Pod{Spec: corev1.PodSpec{
			NodeName: "n1", ServiceAccountName: "robot", EnableServiceLinks: ptr.To(false),
			Containers: []corev1.Container{{Name: "app"}},
		}}
		pod.Name, pod.Namespace, pod.UID = "web-1", "shop", "u1"
		pod.Labels = map[string]string{"app": "web"}
		store = &objects{
			configMaps: map[string]map[string]string{"settings": {"COLOR": "red", "SIZE": "5", "with.dot": "yes"}},
			secrets:    map[string]map[string][]byte{"keys": {"PASSWORD": []byte("geheim")}},
		}
		sources = env.Sources{
			Objects: store, PodIPs: []string{"10.244.0.5", "fd00::5"}, HostIPs: []string{"192.0.2.7"},
			Allocatable: corev1.ResourceList{
				corev1.ResourceCPU: apiresource.MustParse("2"), corev1.ResourceMemory: apiresource.MustParse("4Gi"),
			},
		}
	})

	make := func(from []corev1.EnvFromSource, variables ...corev1.EnvVar) (map[string]string, error) {
		container := &pod.Spec.Containers[0]
		container.EnvFrom, container.Env = from, variables
		return env.Make(context.Background(), pod, container, sources)
	}
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}
	}
	configKey := func(name, key string, optional bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional}}
	}
	secretKey := func(name, key string, optional bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional}}
	}

	It("expands references to variables that stand before", func() {
		Expect(make(nil,
			corev1.EnvVar{Name: "A", Value: "a"},
			corev1.EnvVar{Name: "B", Value: "$(A)b $(LATER) $$(A)"},
			corev1.EnvVar{Name: "LATER", Value: "x"},
			corev1.EnvVar{Name: "EMPTY"},
		)).To(Equal(map[string]string{"A": "a", "B": "ab $(LATER) $(A)", "LATER": "x", "EMPTY": ""}))
	})

	It("takes whole objects, with prefix, and lets env win", func() {
		Expect(make([]corev1.EnvFromSource{
			{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, Optional: ptr.To(true)}},
		}, corev1.EnvVar{Name: "P_SIZE", Value: "$(P_SIZE)0"})).To(Equal(map[string]string{
			"P_COLOR": "red", "P_SIZE": "50", "P_with.dot": "yes", "PASSWORD": "geheim",
		}))
	})

	It("reads keys, once per object, and leaves out optional ones that are missing", func() {
		Expect(make(nil,
			corev1.EnvVar{Name: "COLOR", ValueFrom: configKey("settings", "COLOR", false)},
			corev1.EnvVar{Name: "SIZE", ValueFrom: configKey("settings", "SIZE", false)},
			corev1.EnvVar{Name: "PASSWORD", ValueFrom: secretKey("keys", "PASSWORD", false)},
			corev1.EnvVar{Name: "NO_KEY", ValueFrom: configKey("settings", "none", true)},
			corev1.EnvVar{Name: "NO_SECRET", ValueFrom: secretKey("none", "k", true)},
		)).To(Equal(map[string]string{"COLOR": "red", "SIZE": "5", "PASSWORD": "geheim"}))
		Expect(store.reads).To(Equal(3))
	})

	It("names what is missing in kubelet's words", func() {
		fails := func(source *corev1.EnvVarSource, text string) {
			GinkgoHelper()
			_, err := make(nil, corev1.EnvVar{Name: "X", ValueFrom: source})
			Expect(err).To(MatchError(text))
		}
		fails(configKey("settings", "none", false), "couldn't find key none in ConfigMap shop/settings")
		fails(secretKey("keys", "none", false), "couldn't find key none in Secret shop/keys")
		fails(configKey("none", "k", false), `configmaps "none" not found`)
		fails(secretKey("none", "k", false), `secrets "none" not found`)
	})

	It("reads fields of the pod", func() {
		Expect(make(nil,
			corev1.EnvVar{Name: "NAME", ValueFrom: field("metadata.name")},
			corev1.EnvVar{Name: "NAMESPACE", ValueFrom: field("metadata.namespace")},
			corev1.EnvVar{Name: "UID", ValueFrom: field("metadata.uid")},
			corev1.EnvVar{Name: "LABEL", ValueFrom: field("metadata.labels['app']")},
			corev1.EnvVar{Name: "NODE", ValueFrom: field("spec.nodeName")},
			corev1.EnvVar{Name: "SA", ValueFrom: field("spec.serviceAccountName")},
			corev1.EnvVar{Name: "IP", ValueFrom: field("status.podIP")},
			corev1.EnvVar{Name: "IPS", ValueFrom: field("status.podIPs")},
			corev1.EnvVar{Name: "HOST", ValueFrom: field("status.hostIP")},
		)).To(Equal(map[string]string{
			"NAME": "web-1", "NAMESPACE": "shop", "UID": "u1", "LABEL": "web", "NODE": "n1", "SA": "robot",
			"IP": "10.244.0.5", "IPS": "10.244.0.5,fd00::5", "HOST": "192.0.2.7",
		}))
	})

	It("reads resources, with divisor, and the node's for a limit that is not set", func() {
		pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("250m")},
		}
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "side", Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: apiresource.MustParse("64Mi")},
		}})
		resource := func(name, container, divisor string) *corev1.EnvVarSource {
			return &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{
				Resource: name, ContainerName: container, Divisor: apiresource.MustParse(divisor)}}
		}
		Expect(make(nil,
			corev1.EnvVar{Name: "REQUEST", ValueFrom: resource("requests.cpu", "", "1m")},
			corev1.EnvVar{Name: "CPUS", ValueFrom: resource("limits.cpu", "", "1")},
			corev1.EnvVar{Name: "MEMORY", ValueFrom: resource("limits.memory", "", "1Mi")},
			corev1.EnvVar{Name: "SIDE", ValueFrom: resource("limits.memory", "side", "1Mi")},
		)).To(Equal(map[string]string{"REQUEST": "250", "CPUS": "2", "MEMORY": "4096", "SIDE": "64"}))
	})

	It("tells of services, of the API's even without links", func() {
		service := func(namespace, name, ip string) *corev1.Service {
			s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: "TCP"}}}}
			s.Namespace, s.Name = namespace, name
			return s
		}
		sources.Services = func() ([]*corev1.Service, error) {
			return []*corev1.Service{
				service("default", "kubernetes", "10.96.0.1"), service("shop", "user-db", "10.96.0.9"),
				service("shop", "headless", "None"), service("other", "x", "10.96.0.8"),
			}, nil
		}
		got, err := make(nil, corev1.EnvVar{Name: "URL", Value: "https://$(KUBERNETES_SERVICE_HOST)"})
		Expect(err).NotTo(HaveOccurred())
		Expect(got).To(HaveKeyWithValue("URL", "https://10.96.0.1"))
		Expect(got).To(HaveKeyWithValue("KUBERNETES_SERVICE_PORT", "80"))
		Expect(got).NotTo(HaveKey("USER_DB_SERVICE_HOST"))

		pod.Spec.EnableServiceLinks = ptr.To(true)
		got, err = make(nil, corev1.EnvVar{Name: "USER_DB_SERVICE_PORT", Value: "mine"})
		Expect(err).NotTo(HaveOccurred())
		Expect(got).To(HaveKeyWithValue("USER_DB_SERVICE_HOST", "10.96.0.9"))
		Expect(got).To(HaveKeyWithValue("USER_DB_SERVICE_PORT", "mine"))
		Expect(got).To(HaveKeyWithValue("USER_DB_SERVICE_PORT_HTTP", "80"))
		Expect(got).NotTo(HaveKey("X_SERVICE_HOST"))
		Expect(got).NotTo(HaveKey("HEADLESS_SERVICE_HOST"))
	})

	It("reads environment files in volumes, and never outside of them", func() {
		dir := GinkgoT().TempDir()
		Expect(os.WriteFile(filepath.Join(dir, "e"), []byte("KEY='value'\n"), 0o600)).To(Succeed())
		sources.VolumePaths = map[string]string{"v": filepath.Join(dir)}
		file := func(volume, path, key string) *corev1.EnvVarSource {
			return &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: volume, Path: path, Key: key}}
		}
		Expect(make(nil, corev1.EnvVar{Name: "X", ValueFrom: file("v", "../../e", "KEY")})).To(HaveKeyWithValue("X", "value"))
		_, err := make(nil, corev1.EnvVar{Name: "X", ValueFrom: file("v", "e", "NONE")})
		Expect(err).To(MatchError(ContainSubstring(`key "NONE" not found`)))
		_, err = make(nil, corev1.EnvVar{Name: "X", ValueFrom: file("w", "e", "KEY")})
		Expect(err).To(MatchError(`cannot find the volume "w" referenced by FileKeyRef`))
	})
})

var _ = Describe("Command and KeyValues", func() {
	It("expands words and orders variables", func() {
		environment := map[string]string{"B": "2", "A": "1"}
		command, args := env.Command(&corev1.Container{Command: []string{"run", "$(A)"}, Args: []string{"$(B)$(C)", "$$(A)"}}, environment)
		Expect(command).To(Equal([]string{"run", "1"}))
		Expect(args).To(Equal([]string{"2$(C)", "$(A)"}))
		list := env.KeyValues(environment)
		Expect([]string{list[0].Key, list[1].Key}).To(Equal([]string{"A", "B"}))
	})
})
