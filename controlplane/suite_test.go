package controlplane_test

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/test/env"
)

func TestControlPlane(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "controlplane")
}

// start starts a control plane for the specs of one container.
func start(ctx context.Context, options ...env.Option) (*env.Env, client.WithWatch) {
	GinkgoHelper()
	e, err := env.Start(context.WithoutCancel(ctx), options...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
	c, err := e.Client()
	Expect(err).NotTo(HaveOccurred())
	return e, c
}

func clientset(config *rest.Config) kubernetes.Interface {
	GinkgoHelper()
	c, err := kubernetes.NewForConfig(config)
	Expect(err).NotTo(HaveOccurred())
	return c
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}
}
