package apiserver_test

import (
	"context"
	"io"
	"net/http"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/restmapper"
)

var _ = Describe("The group in discovery", func() {
	It("leaves the names of pods and nodes to their own group", func() {
		client, err := discovery.NewDiscoveryClientForConfig(server.Config)
		Expect(err).NotTo(HaveOccurred())
		groups, err := restmapper.GetAPIGroupResources(client)
		Expect(err).NotTo(HaveOccurred())
		mapper := restmapper.NewDiscoveryRESTMapper(groups)
		for _, name := range []string{"pods", "pod", "nodes", "node"} {
			resource, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: name})
			Expect(err).NotTo(HaveOccurred())
			Expect(resource.Group).To(Equal("core.drayage.dev"), name)
		}
		resources, err := client.ServerResourcesForGroupVersion("subresources.drayage.dev/v1alpha1")
		Expect(err).NotTo(HaveOccurred())
		names := map[string][]string{}
		for _, resource := range resources.APIResources {
			names[resource.Name] = resource.Verbs
		}
		Expect(names).To(HaveKeyWithValue("pods/exec", ConsistOf("create", "get")))
		Expect(names).To(HaveKeyWithValue("pods/log", ConsistOf("get")))
		Expect(names).To(HaveKeyWithValue("nodes/podobjects", ConsistOf("get")))
		Expect(names).To(HaveKeyWithValue("pods", BeEmpty()))
	})

	It("is documented", func(ctx context.Context) {
		response := do(ctx, server.Config, http.MethodGet, "/openapi/v3/apis/subresources.drayage.dev/v1alpha1", nil)
		defer response.Body.Close()
		Expect(response.StatusCode).To(Equal(http.StatusOK))
		body, err := io.ReadAll(response.Body)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(body)).To(ContainSubstring("/apis/subresources.drayage.dev/v1alpha1/namespaces/{namespace}/pods/{name}/exec"))
	})
})
