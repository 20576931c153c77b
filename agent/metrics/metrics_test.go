package metrics

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestMetrics(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "agent/metrics")
}

// The names are those of kubelet's kuberuntime/instrumented_services.go.
var _ = DescribeTable("kubelet's names of the runtime's methods", func(method, operation string) {
	Expect(operationOf(method)).To(Equal(operation))
},
	Entry(nil, "/runtime.v1.RuntimeService/RunPodSandbox", "run_podsandbox"),
	Entry(nil, "/runtime.v1.RuntimeService/PodSandboxStatus", "podsandbox_status"),
	Entry(nil, "/runtime.v1.RuntimeService/CreateContainer", "create_container"),
	Entry(nil, "/runtime.v1.RuntimeService/UpdateContainerResources", "update_container"),
	Entry(nil, "/runtime.v1.RuntimeService/ListContainers", "list_containers"),
	Entry(nil, "/runtime.v1.ImageService/ImageFsInfo", "image_fs_info"),
	Entry(nil, "/runtime.v1.RuntimeService/Version", "version"),
)
