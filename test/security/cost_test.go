package security_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/config"
	"drayage.dev/controlplane"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/env"
)

// BenchmarkPolicies measures the two hot writes of a pod with the policies and without them: CPU of API
// server, etcd and client together, so that the difference is the policies'.
func BenchmarkPolicies(b *testing.B) {
	for _, with := range []bool{false, true} {
		roles, err := config.RBAC()
		if err != nil {
			b.Fatal(err)
		}
		if with {
			policies, err := config.Policies()
			if err != nil {
				b.Fatal(err)
			}
			roles = append(roles, policies...)
		}
		server, err := env.Start(context.Background(), env.WithConfig(func(c *controlplane.Config) { c.Objects = roles }))
		if err != nil {
			b.Fatal(err)
		}
		admin, err := server.Client()
		if err != nil {
			b.Fatal(err)
		}
		as := func(user, group string) client.Client {
			config, err := server.As(user, group)
			if err != nil {
				b.Fatal(err)
			}
			c, err := client.New(config, client.Options{Scheme: scheme.New()})
			if err != nil {
				b.Fatal(err)
			}
			return c
		}
		node, scheduler := as(dcorev1.NodeUserPrefix+own, dcorev1.NodesGroup), as("drayage:scheduler", "system:authenticated")
		if with {
			awaitPolicies(b, admin, node)
		}
		count := 0
		b.Run(fmt.Sprintf("status/policies=%t", with), func(b *testing.B) {
			count++
			pod := benchPod(fmt.Sprintf("status-%d", count), own)
			create(b, admin, pod)
			measure(b, func(i int) error {
				return node.Status().Patch(context.Background(), pod, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"status":{"message":"%d"}}`, i)))
			})
		})
		b.Run(fmt.Sprintf("bind/policies=%t", with), func(b *testing.B) {
			count++
			pods := make([]*dcorev1.Pod, b.N)
			for i := range pods {
				pods[i] = benchPod(fmt.Sprintf("bind-%d-%d", count, i), "")
				create(b, admin, pods[i])
			}
			measure(b, func(i int) error {
				return scheduler.Patch(context.Background(), pods[i], client.RawPatch(types.MergePatchType, []byte(`{"spec":{"nodeName":"`+own+`"}}`)))
			})
		})
		if err := server.Stop(); err != nil {
			b.Fatal(err)
		}
	}
}

// awaitPolicies waits until the policies are active, a moment after they were made.
func awaitPolicies(b *testing.B, admin, node client.Client) {
	b.Helper()
	pod := benchPod("probe", own)
	create(b, admin, pod)
	deadline := time.Now().Add(time.Minute)
	for i := 0; ; i++ {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"probe":"%d"}}}`, i)
		err := node.Patch(context.Background(), pod, client.RawPatch(types.MergePatchType, patch))
		if apierrors.IsForbidden(err) {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("the policies are not active: %v", err)
		}
	}
}

func benchPod(name, node string) *dcorev1.Pod {
	return &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
	}
}

func create(b *testing.B, c client.Client, pod *dcorev1.Pod) {
	b.Helper()
	if err := c.Create(context.Background(), pod); err != nil {
		b.Fatal(err)
	}
}

// measure reports the CPU time of this process per call.
func measure(b *testing.B, call func(i int) error) {
	b.Helper()
	b.ResetTimer()
	before := cpu(b)
	for i := range b.N {
		if err := call(i); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
