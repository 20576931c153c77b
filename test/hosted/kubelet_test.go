//go:build cluster

package hosted_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/controlplane/pki"
	"drayage.dev/test/cluster"
)

// replica is one pod of a Deployment, played by a process.
type replica struct {
	*cluster.Process
	ip string
}

// replicas starts the processes of a Deployment with the arguments that its template names. What follows on
// the command line stands for the pod's own network and files.
func (h *host) replicas(ctx context.Context, name string, first int, own func(ip, dir string) []string) []replica {
	GinkgoHelper()
	deployment := &appsv1.Deployment{}
	Expect(h.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, deployment)).To(Succeed())
	pod := deployment.Spec.Template.Spec
	var all []replica
	for i := range int(*deployment.Spec.Replicas) {
		ip := fmt.Sprintf("10.77.0.%d", first+i)
		h.addAddress(ip)
		id := fmt.Sprintf("%s-%d", name, i)
		args := slices.Concat(pod.Containers[0].Args, []string{"--kubeconfig=" + h.token(ctx, id, pod.ServiceAccountName)}, own(ip, filepath.Join(h.dir, id)))
		process := h.process(id, filepath.Base(pod.Containers[0].Command[0]), args...)
		Expect(process.Start()).To(Succeed())
		h.pods = append(h.pods, process)
		all = append(all, replica{process, ip})
	}
	return all
}

// token returns a kubeconfig with a token of a service account, as a pod of it has one.
func (h *host) token(ctx context.Context, name, account string) string {
	GinkgoHelper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3600)}}
	serviceAccount := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	Expect(h.api.SubResource("token").Create(ctx, serviceAccount, request)).To(Succeed())
	_, path := h.identity(name, rest.Config{BearerToken: request.Status.Token}, pki.Identity{})
	return path
}

// endpoints leads a Service to the replicas that run, as the endpoint controller would.
func (h *host) endpoints(ctx context.Context, service string, port int32, replicas []replica) {
	GinkgoHelper()
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service},
	}, AddressType: discoveryv1.AddressTypeIPv4}
	slice.Ports = []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: &port, Protocol: ptr.To(corev1.ProtocolTCP)}}
	for _, each := range replicas {
		if each.Running() {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{each.ip}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
			})
		}
	}
	err := h.api.Create(ctx, slice)
	if apierrors.IsAlreadyExists(err) {
		err = h.api.Update(ctx, slice)
	}
	Expect(err).NotTo(HaveOccurred())
}

// runJobs runs the Jobs that Helm creates, until ctx ends: one process each, with the Job's arguments.
func (h *host) runJobs(ctx context.Context, ran chan<- string) {
	defer GinkgoRecover()
	seen := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
		jobs := &batchv1.JobList{}
		if err := h.api.List(ctx, jobs, client.InNamespace(namespace)); err != nil {
			continue
		}
		for i := range jobs.Items {
			job := &jobs.Items[i]
			if seen[string(job.UID)] {
				continue
			}
			seen[string(job.UID)] = true
			pod := job.Spec.Template.Spec
			kubeconfig := h.token(ctx, job.Name, pod.ServiceAccountName)
			out, err := h.run(ctx, filepath.Base(pod.Containers[0].Command[0]), append(pod.Containers[0].Args, "--kubeconfig="+kubeconfig)...)
			Expect(err).NotTo(HaveOccurred(), out)
			now := metav1.Now()
			job.Status = batchv1.JobStatus{Succeeded: 1, StartTime: &now, CompletionTime: &now, Conditions: []batchv1.JobCondition{
				{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, LastTransitionTime: now, LastProbeTime: now},
				{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: now, LastProbeTime: now},
			}, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{}}
			Expect(h.api.Status().Update(ctx, job)).To(Succeed())
			ran <- job.Name
		}
	}
}

// ready asks a replica's readiness probe.
func (h *host) ready(ctx context.Context, address string) error {
	httpClient := &http.Client{Transport: &http.Transport{DialContext: h.network.DialContext, DisableKeepAlives: true}, Timeout: 2 * time.Second}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("readiness of %s: %s", address, response.Status)
	}
	return nil
}
