//go:build cluster

package hosted_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

func specsOfNetwork() {
	// through returns what a pod on the machine gets that runs the demo application.
	through := func(m *machine, podIP, target string) func() (string, error) {
		return m.fetch("http://" + podIP + ":8080/fetch?url=" + url.QueryEscape(target))
	}

	It("leads Drayage's pods to the host's services, and to the outside", func(ctx SpecContext) {
		ordinary := h.service(ctx, "default", "ordinary")
		for _, m := range h.machines {
			pod := m.podOf(ctx, "myapp")
			for _, target := range []string{
				"http://" + ordinary + "/", "http://ordinary.default.svc.cluster.local/", "http://ordinary.default/",
			} {
				Eventually(through(m, pod.Status.PodIP, target)).Should(ContainSubstring(`"image":"my-app:1.0"`), "%s from %s", target, pod.Name)
			}
			for _, target := range []string{"http://" + outsideIP + "/", "http://" + outsideName + "/", "http://" + stubName + "/"} {
				Eventually(through(m, pod.Status.PodIP, target)).Should(Equal("outside, asked by "+m.address), "%s from %s", target, pod.Name)
			}
		}
	}, SpecTimeout(2*time.Minute))

	It("leads the host's pods to Drayage's services on their own node", func(ctx SpecContext) {
		service := h.drayageService(ctx, "myapp")
		list := &corev1.PodList{}
		Expect(h.api.List(ctx, list, client.InNamespace("default"), client.MatchingLabels{"app": "ordinary"})).To(Succeed())
		for _, m := range h.machines {
			on := slices.IndexFunc(list.Items, func(pod corev1.Pod) bool { return pod.Spec.NodeName == m.name })
			Expect(on).NotTo(Equal(-1), m.name)
			Eventually(through(m, list.Items[on].Status.PodIP, "http://"+service+"/")).Should(ContainSubstring(`"image":"myapp:latest"`))
		}
	}, SpecTimeout(time.Minute))

	It("leaves the host's own network as it was", func(ctx SpecContext) {
		ordinary := h.service(ctx, "default", "ordinary")
		list := &corev1.PodList{}
		Expect(h.api.List(ctx, list, client.InNamespace("default"), client.MatchingLabels{"app": "ordinary"})).To(Succeed())
		for _, pod := range list.Items {
			for _, m := range h.machines {
				Eventually(m.fetch("http://" + pod.Status.PodIP + ":8080/")).Should(ContainSubstring(pod.Name))
			}
			m := h.machine(pod.Spec.NodeName)
			Eventually(through(m, pod.Status.PodIP, "http://ordinary.default.svc.cluster.local/")).Should(ContainSubstring("my-app:1.0"))
			Eventually(through(m, pod.Status.PodIP, "http://"+ordinary+"/")).Should(ContainSubstring("my-app:1.0"))
			Eventually(through(m, pod.Status.PodIP, "http://"+outsideIP+"/")).Should(Equal("outside, asked by " + pod.Status.PodIP))
		}
	}, SpecTimeout(time.Minute))
}

// machine returns the one of a name.
func (h *host) machine(name string) *machine {
	GinkgoHelper()
	at := slices.IndexFunc(h.machines, func(m *machine) bool { return m.name == name })
	Expect(at).NotTo(Equal(-1), name)
	return h.machines[at]
}

// podOf returns a ready pod of an application of Drayage on the machine.
func (m *machine) podOf(ctx context.Context, app string) dcorev1.Pod {
	GinkgoHelper()
	all := running(ctx, app)()
	at := slices.IndexFunc(all, func(pod dcorev1.Pod) bool { return pod.Spec.NodeName == m.name })
	Expect(at).NotTo(Equal(-1), "no pod of %s runs on %s", app, m.name)
	return all[at]
}

// drayageService returns the address of a Service of Drayage.
func (h *host) drayageService(ctx context.Context, name string) string {
	GinkgoHelper()
	service := &dcorev1.Service{}
	Expect(h.api.Get(ctx, client.ObjectKey{Namespace: team, Name: name}, service)).To(Succeed())
	Expect(service.Spec.ClusterIP).NotTo(BeEmpty())
	return service.Spec.ClusterIP
}

// fetch reads a URL from the machine.
func (m *machine) fetch(target string) func() (string, error) {
	caller := &http.Client{Timeout: 6 * time.Second, Transport: &http.Transport{DialContext: m.network.DialContext, DisableKeepAlives: true}}
	return func() (string, error) {
		response, err := caller.Get(target)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, body)
		}
		return string(body), err
	}
}

// probing asks a URL from every machine, ten times a second, until the function that it returns is called, which
// expects that all were answered.
func (h *host) probing(target string) func() {
	ctx, stop := context.WithCancel(context.Background())
	var lock sync.Mutex
	var failures []string
	var asked int
	var running sync.WaitGroup
	for _, m := range h.machines {
		fetch := m.fetch(target)
		running.Go(func() {
			for ctx.Err() == nil {
				_, err := fetch()
				lock.Lock()
				asked++
				if err != nil {
					failures = append(failures, fmt.Sprintf("%s: %v", time.Now().Format(time.TimeOnly), err))
				}
				lock.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	return func() {
		GinkgoHelper()
		stop()
		running.Wait()
		AddReportEntry("requests meanwhile", asked)
		Expect(failures).To(BeEmpty(), "of %d requests", asked)
	}
}
