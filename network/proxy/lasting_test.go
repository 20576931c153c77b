package proxy_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
)

var _ = Describe("Endpoints that are all ending", func() {
	It("serve in the order in which they began, the last ones first", func() {
		model := newModel(thisNode)
		model.SetService(service("web", "10.96.0.20", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal, 30080
		}))
		elsewhere := there(endpoint("10.244.2.2"))
		lead := func(to ...string) {
			GinkgoHelper()
			model.Changes()
			Expect(model.Desired()[at("192.0.2.1:30080", 6)].Slots).To(Equal(slots(to...)))
		}
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.1"), endpoint("10.244.1.2"), endpoint("10.244.1.3"), elsewhere))
		lead("10.244.1.1", "10.244.1.2", "10.244.1.3")
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.1", "ending"), endpoint("10.244.1.2"), endpoint("10.244.1.3"), elsewhere))
		lead("10.244.1.2", "10.244.1.3")

		By("who was withdrawn has been told to end since, and may not listen any more")
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.1", "ending"), endpoint("10.244.1.2", "ending"), endpoint("10.244.1.3", "ending"), elsewhere))
		lead("10.244.1.2", "10.244.1.3")
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.1", "ending"), endpoint("10.244.1.3", "ending"), elsewhere))
		lead("10.244.1.3")

		By("and is better than nobody")
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.1", "ending"), elsewhere))
		lead("10.244.1.1")

		By("nor is there an order for who has seen none")
		late := newModel(thisNode)
		late.SetService(service("web", "10.96.0.20"))
		late.SetSlice(slice("web-1", "web", endpoint("10.244.1.1", "ending"), endpoint("10.244.1.2", "ending")))
		late.Changes()
		Expect(late.Desired()[at("10.96.0.20:80", 6)].Slots).To(Equal(slots("10.244.1.1", "10.244.1.2")))
	})
})
