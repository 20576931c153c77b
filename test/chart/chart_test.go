package main

import (
	"os"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"

	"drayage.dev/config"
)

func TestChart(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "test/chart")
}

var _ = Describe("the generated parts of charts/drayage", func() {
	It("are what the sources say", func() {
		Expect(run("../..", true)).To(Succeed())
	})

	It("announce every kind to Artifact Hub", func() {
		data, err := os.ReadFile("../../charts/drayage/Chart.yaml")
		Expect(err).NotTo(HaveOccurred())
		var chart struct{ Annotations map[string]string }
		Expect(yaml.Unmarshal(data, &chart)).To(Succeed())
		var announced []struct {
			Kind        string `json:"kind"`
			Version     string `json:"version"`
			Name        string `json:"name"`
			DisplayName string `json:"displayName"`
			Description string `json:"description"`
		}
		Expect(yaml.UnmarshalStrict([]byte(chart.Annotations["artifacthub.io/crds"]), &announced)).To(Succeed())
		crds, err := config.CRDs()
		Expect(err).NotTo(HaveOccurred())
		var served []string
		for _, crd := range crds {
			served = append(served, crd.Name+" "+crd.Spec.Names.Kind+" "+crd.Spec.Versions[0].Name)
		}
		var told []string
		for _, each := range announced {
			Expect([]string{each.DisplayName, each.Description}).NotTo(ContainElement(BeEmpty()), each.Name)
			told = append(told, each.Name+" "+each.Kind+" "+each.Version)
		}
		Expect(told).To(ConsistOf(served))
	})

	It("name a service account for every subject", func() {
		_, err := translate([]any{map[string]any{"kind": "User", "name": "somebody"}})
		Expect(err).To(MatchError(ContainSubstring("User somebody")))
	})
})
