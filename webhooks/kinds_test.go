package webhooks_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	deployment = `
apiVersion: apps.drayage.dev/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web:1
        ports: [{containerPort: 80}]
        resources: {limits: {cpu: "0.5", memory: 1024Mi}}
        livenessProbe: {httpGet: {path: /health, port: 80}}
`
	service = `
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
`
	pod = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: web}
spec:
  containers: [{name: web, image: web, ports: [{containerPort: 80}], resources: {requests: {memory: 1024Mi}}}]
`
	replicaSet = `
apiVersion: apps.drayage.dev/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
`
	endpointSlice = `
apiVersion: discovery.drayage.dev/v1
kind: EndpointSlice
metadata: {name: web}
addressType: IPv4
endpoints: [{addresses: [10.244.0.7]}]
ports: [{port: 80}]
`
	budget = `
apiVersion: policy.drayage.dev/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  maxUnavailable: 25%
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector: {matchLabels: {app: web}}
`
)

var _ = Describe("every kind", func() {
	DescribeTable("is unchanged by a second server-side apply", func(ctx context.Context, manifest string) {
		namespace := newNamespace(ctx)
		apply := func() *unstructured.Unstructured {
			u := object(namespace, manifest)
			Expect(api.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("me"))).To(Succeed())
			Expect(api.Get(ctx, client.ObjectKeyFromObject(u), u)).To(Succeed())
			return u
		}
		first, second := apply(), apply()
		// The first write after a pod's creation stores the default of its status, which a creation drops.
		version := second.GetResourceVersion()
		second.SetResourceVersion(first.GetResourceVersion())
		Expect(second).To(Equal(first))
		Expect(apply().GetResourceVersion()).To(Equal(version))
	},
		Entry("Pod", pod), Entry("Service", service), Entry("Deployment", deployment),
		Entry("ReplicaSet", replicaSet), Entry("EndpointSlice", endpointSlice),
		Entry("PodDisruptionBudget", budget),
	)
})

var _ = Describe("budgets", func() {
	DescribeTable("are refused", func(ctx context.Context, change, message string) {
		u := object(newNamespace(ctx), budget)
		Expect(api.Create(ctx, u)).To(Succeed())
		Expect(patch(ctx, u, change)).To(MatchError(ContainSubstring(message)))
	},
		Entry("with both bounds", `{"spec":{"minAvailable":1}}`, "minAvailable and maxUnavailable cannot be both set"),
		Entry("with more than all", `{"spec":{"maxUnavailable":"120%"}}`, "spec.maxUnavailable: Invalid value: \"120%\": must not be greater than 100%"),
		Entry("with another policy", `{"spec":{"unhealthyPodEvictionPolicy":"Never"}}`, `spec.unhealthyPodEvictionPolicy: Unsupported value: "Never"`),
	)
})

var _ = Describe("workloads", func() {
	It("are defaulted as upstream's", func(ctx context.Context) {
		u := object(newNamespace(ctx), deployment)
		Expect(api.Create(ctx, u)).To(Succeed())
		surge, _, _ := unstructured.NestedString(u.Object, "spec", "strategy", "rollingUpdate", "maxSurge")
		Expect(surge).To(Equal("25%"))
		template, _, _ := unstructured.NestedMap(u.Object, "spec", "template", "spec")
		Expect(template).To(HaveKeyWithValue("dnsPolicy", "ClusterFirst"))
		Expect(template).NotTo(HaveKey("volumes"), "what is a pod's own is left to its creation")
	})

	It("keep their selector", func(ctx context.Context) {
		u := object(newNamespace(ctx), deployment)
		Expect(api.Create(ctx, u)).To(Succeed())
		err := patch(ctx, u, `{"spec":{"selector":{"matchLabels":{"app":"other"}},"template":{"metadata":{"labels":{"app":"other"}}}}}`)
		Expect(err).To(MatchError(ContainSubstring(`Deployment.apps.drayage.dev "web" is invalid: spec.selector: Invalid value`)))
		Expect(err).To(MatchError(ContainSubstring("field is immutable")))
	})

	DescribeTable("are refused", func(ctx context.Context, manifest, change, message string) {
		u := object(newNamespace(ctx), manifest)
		Expect(api.Create(ctx, u)).To(Succeed())
		Expect(patch(ctx, u, change)).To(MatchError(ContainSubstring(message)))
	},
		Entry("with an unimplemented field in the template", deployment, `{"spec":{"template":{"spec":{"runtimeClassName":"kata"}}}}`,
			`spec.template.spec.runtimeClassName: Forbidden: not implemented by Drayage yet`),
		Entry("with a selector that misses the template", replicaSet, `{"spec":{"template":{"metadata":{"labels":{"app":"other"}}}}}`,
			"spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"),
		Entry("with fewer than no replicas", deployment, `{"spec":{"replicas":-1}}`,
			`spec.replicas: Invalid value: -1: must be greater than or equal to 0`),
		Entry("with a wrong type", deployment, `{"spec":{"replicas":"three"}}`,
			`Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`),
	)
})

var _ = Describe("services", func() {
	It("get their address after creation and keep it", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		u := object(namespace, service)
		Expect(api.Create(ctx, u)).To(Succeed())
		Expect(patch(ctx, u, `{"spec":{"clusterIP":"10.96.0.7","clusterIPs":["10.96.0.7"]}}`)).To(Succeed())

		Expect(patch(ctx, u, `{"spec":{"clusterIP":"10.96.0.8","clusterIPs":["10.96.0.8"]}}`)).
			To(MatchError(ContainSubstring(`spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set`)))

		By("replacing it by the user's manifest")
		again := object(namespace, service)
		again.SetResourceVersion(u.GetResourceVersion())
		Expect(api.Update(ctx, again)).To(Succeed())
		Expect(again.Object["spec"]).To(HaveKeyWithValue("clusterIP", "10.96.0.7"))

		By("turning it into an external name")
		Expect(patch(ctx, again, `{"spec":{"type":"ExternalName","externalName":"example.com"}}`)).To(Succeed())
		Expect(again.Object["spec"]).NotTo(HaveKey("clusterIP"))
	})

	It("get node ports after creation and keep them", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		u := object(namespace, service)
		Expect(unstructured.SetNestedField(u.Object, "LoadBalancer", "spec", "type")).To(Succeed())
		manifest := u.DeepCopy()
		Expect(api.Create(ctx, u)).To(Succeed())
		Expect(patch(ctx, u, `{"spec":{"ports":[{"port":80,"targetPort":"http","nodePort":30080,"protocol":"TCP"}]}}`)).To(Succeed())
		manifest.SetResourceVersion(u.GetResourceVersion())
		Expect(api.Update(ctx, manifest)).To(Succeed())
		ports, _, _ := unstructured.NestedSlice(manifest.Object, "spec", "ports")
		Expect(ports[0]).To(HaveKeyWithValue("nodePort", BeEquivalentTo(30080)))
	})

	DescribeTable("are refused", func(ctx context.Context, spec, message string) {
		u := object(newNamespace(ctx), `{apiVersion: core.drayage.dev/v1, kind: Service, metadata: {name: web}, spec: `+spec+`}`)
		Expect(api.Create(ctx, u)).To(MatchError(ContainSubstring(message)))
	},
		Entry("without ports", `{}`, `Service.core.drayage.dev "web" is invalid: spec.ports: Required value`),
		Entry("with a traffic distribution", `{trafficDistribution: PreferClose, ports: [{port: 80}]}`,
			`spec.trafficDistribution: Forbidden: not implemented by Drayage yet`),
		Entry("with two stacks", `{ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}`,
			`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`),
	)
})

var _ = Describe("priority classes", func() {
	It("are reserved, single as default, and immutable", func(ctx context.Context) {
		create := func(fields string) (*unstructured.Unstructured, error) {
			u := object("", `{apiVersion: scheduling.drayage.dev/v1, kind: PriorityClass, `+fields+`}`)
			return u, api.Create(ctx, u)
		}
		_, err := create(`metadata: {name: system-mine}, value: 1`)
		Expect(err).To(MatchError(ContainSubstring("metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only")))
		_, err = create(`metadata: {name: huge}, value: 2000000000`)
		Expect(err).To(MatchError(ContainSubstring("value: Forbidden: maximum allowed value of a user defined priority is 1000000000")))

		standard, err := create(`metadata: {name: standard}, value: 10, globalDefault: true, preemptionPolicy: Never`)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() error {
			u, err := create(`metadata: {generateName: other-}, value: 20, globalDefault: true`)
			if err == nil {
				Expect(api.Delete(ctx, u)).To(Succeed())
			}
			return err
		}).Should(MatchError(ContainSubstring("is forbidden: PriorityClass standard is already marked as default. Only one default can exist")))
		Expect(patch(ctx, standard, `{"value":11}`)).To(MatchError(ContainSubstring("value: Forbidden: may not be changed in an update.")))
		Expect(patch(ctx, standard, `{"description":"the usual"}`)).To(Succeed())

		prepared := createPod(ctx, nil)
		Expect(prepared.Spec.PriorityClassName).To(Equal("standard"))
		Expect(prepared.Spec.Priority).To(HaveValue(BeEquivalentTo(10)))
		Expect(api.Delete(ctx, standard)).To(Succeed())
		Eventually(func() string { return createPod(ctx, nil).Spec.PriorityClassName }).Should(BeEmpty())
	}, Serial)
})

var _ = Describe("nodes", func() {
	It("are validated with spec and status apart", func(ctx context.Context) {
		u := object("", `{apiVersion: core.drayage.dev/v1, kind: Node, metadata: {generateName: node-}, spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}}`)
		Expect(api.Create(ctx, u)).To(Succeed())
		Expect(patch(ctx, u, `{"spec":{"podCIDR":"10.244.2.0/24","podCIDRs":["10.244.2.0/24"]}}`)).
			To(MatchError(ContainSubstring("node updates may not change podCIDR except from \"\" to valid")))
		Expect(patch(ctx, u, `{"spec":{"taints":[{"key":"a b","effect":"NoSchedule"}]}}`)).To(MatchError(ContainSubstring("taints[0].key: Invalid value")))
		Expect(patch(ctx, u, `{"spec":{"unschedulable":true}}`)).To(Succeed())
		u.Object["status"] = map[string]any{"capacity": map[string]any{"cpu": "2"}, "summary": map[string]any{"status": "Ready", "roles": "<none>"}}
		Expect(api.Status().Update(ctx, u)).To(Succeed())
		Expect(api.Create(ctx, object("", `{apiVersion: core.drayage.dev/v1, kind: Node, metadata: {name: Big}}`))).
			To(MatchError(ContainSubstring("metadata.name: Invalid value")))
	})
})
