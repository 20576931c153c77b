package security_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

// What holds an attempt up.
const (
	roles       = "its roles" // RBAC
	policy      = "admission policy"
	broker      = "broker"
	authorizer  = "authorizer" // of the embedded control plane
	signer      = "signer"
	unprevented = ""
)

// attempt is a line of the table: what a thief tries, and what holds it up, if anything.
type attempt struct {
	what  string
	guard string
	try   func(ctx context.Context, t *thief) error
}

// attempts is the table. Where several objects are tried, the first success counts.
var attempts = []attempt{
	{"read Nodes, Services and EndpointSlices, of everybody", unprevented, func(ctx context.Context, t *thief) error {
		return errors.Join(t.client.List(ctx, &dcorev1.NodeList{}), t.client.List(ctx, &dcorev1.ServiceList{}), t.client.List(ctx, &ddiscoveryv1.EndpointSliceList{}))
	}},
	{"read the pods that are bound to it", unprevented, func(ctx context.Context, t *thief) error {
		return errors.Join(t.client.List(ctx, &dcorev1.PodList{}, client.MatchingFields{dcorev1.NodeNameField: own}),
			t.client.Get(ctx, client.ObjectKey{Namespace: shop, Name: "own"}, &dcorev1.Pod{}))
	}},
	{"write the status of its pods (any phase, condition or address), so draw the traffic of their Services", unprevented, func(ctx context.Context, t *thief) error {
		return t.patchStatus(ctx, &dcorev1.Pod{}, shop, "own", `{"status":{"podIP":"10.1.2.3"}}`)
	}},
	{"take the finalizer `drayage.dev/node` off its pods", unprevented, func(ctx context.Context, t *thief) error {
		defer restoreFinalizers(ctx)
		return t.patch(ctx, &dcorev1.Pod{}, shop, "own", `{"metadata":{"finalizers":["example.com/other"]}}`)
	}},
	{"write its own Node's status, annotations and unrestricted labels", unprevented, func(ctx context.Context, t *thief) error {
		return errors.Join(t.patch(ctx, &dcorev1.Node{}, "", own, `{"metadata":{"labels":{"disk":"fast","topology.kubernetes.io/zone":"west"},"annotations":{"a":"b"}}}`),
			t.patchStatus(ctx, &dcorev1.Node{}, "", own, `{"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`))
	}},
	{"renew its own Lease", unprevented, func(ctx context.Context, t *thief) error { return t.renew(ctx, own) }},
	{"read, through the broker, the Secrets and ConfigMaps that its own pods refer to", unprevented, func(ctx context.Context, t *thief) error {
		seen, err := t.stream(ctx, own)
		if err == nil && !strings.Contains(seen, "secret-of-own") {
			return errors.New("the Secret is not there")
		}
		return err
	}},
	{"get tokens of its own pods' service accounts, for an hour at most", unprevented, func(ctx context.Context, t *thief) error {
		return t.mint(ctx, own, "own")
	}},
	{"report events in its own name, about any object", unprevented, func(ctx context.Context, t *thief) error {
		return t.report(ctx, own)
	}},

	{"list or watch all pods (certificate; see below for clusters)", authorizer, func(ctx context.Context, t *thief) error {
		return t.client.List(ctx, &dcorev1.PodList{})
	}},
	{"read a pod that is not bound to it (certificate; see below for clusters)", authorizer, func(ctx context.Context, t *thief) error {
		return t.client.Get(ctx, client.ObjectKey{Namespace: shop, Name: "other"}, &dcorev1.Pod{})
	}},
	{"read a Secret or ConfigMap from the API, even its own pods'", roles, func(ctx context.Context, t *thief) error {
		return first(t.client.Get(ctx, client.ObjectKey{Namespace: shop, Name: "secret-of-own"}, &corev1.Secret{}),
			t.client.List(ctx, &corev1.SecretList{}), t.client.List(ctx, &corev1.ConfigMapList{}))
	}},
	{"read through the broker what pods of another node refer to", broker, func(ctx context.Context, t *thief) error {
		if seen, err := t.stream(ctx, own); err == nil && (strings.Contains(seen, "secret-of-other") || strings.Contains(seen, "secret-of-waiting")) {
			return nil
		}
		_, err := t.stream(ctx, other)
		return err
	}},
	{"mint a token for a pod that is not bound to it", broker, func(ctx context.Context, t *thief) error {
		return first(t.mint(ctx, own, "other"), t.mint(ctx, own, "waiting"), t.mint(ctx, other, "other"))
	}},
	{"mint a token of a service account itself", roles, func(ctx context.Context, t *thief) error {
		_, err := t.clientset.CoreV1().ServiceAccounts(shop).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		return err
	}},
	{"bind a waiting pod, to itself or elsewhere", policy, func(ctx context.Context, t *thief) error {
		return first(t.patch(ctx, &dcorev1.Pod{}, shop, "waiting", `{"spec":{"nodeName":"`+own+`"}}`),
			t.patch(ctx, &dcorev1.Pod{}, shop, "waiting", `{"spec":{"nodeName":"`+other+`"}}`))
	}},
	{"create a pod", policy, func(ctx context.Context, t *thief) error {
		return t.client.Create(ctx, newPod(shop, "planted", own))
	}},
	{"delete a pod", policy, func(ctx context.Context, t *thief) error {
		return first(t.client.Delete(ctx, newPod(shop, "own", "")), t.client.Delete(ctx, newPod(shop, "other", "")))
	}},
	{"evict a pod", roles, func(ctx context.Context, t *thief) error {
		return t.post(ctx, "/apis/subresources.drayage.dev/v1alpha1/namespaces/"+shop+"/pods/other/eviction", `{}`)
	}},
	{"run commands in pods, read their logs, forward ports through the API", roles, func(ctx context.Context, t *thief) error {
		base := "/apis/subresources.drayage.dev/v1alpha1/namespaces/" + shop + "/pods/other/"
		return first(t.get(ctx, base+"log"), t.post(ctx, base+"exec?command=id", ""), t.post(ctx, base+"attach", ""), t.post(ctx, base+"portforward", ""))
	}},
	{"write the status of a pod that is not bound to it", policy, func(ctx context.Context, t *thief) error {
		return first(t.patchStatus(ctx, &dcorev1.Pod{}, shop, "other", `{"status":{"phase":"Failed"}}`),
			t.patchStatus(ctx, &dcorev1.Pod{}, shop, "waiting", `{"status":{"phase":"Failed"}}`))
	}},
	{"take finalizers off a pod that is not bound to it", policy, func(ctx context.Context, t *thief) error {
		return t.patch(ctx, &dcorev1.Pod{}, shop, "other", `{"metadata":{"finalizers":null}}`)
	}},
	{"change its pods' spec, labels, annotations or owners, or take others' finalizers off", policy, func(ctx context.Context, t *thief) error {
		return first(t.label(ctx, &dcorev1.Pod{}, shop, "own"),
			t.patch(ctx, &dcorev1.Pod{}, shop, "own", `{"metadata":{"annotations":{"stolen":"yes"}}}`),
			t.patch(ctx, &dcorev1.Pod{}, shop, "own", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"x"}]}}`),
			t.patch(ctx, &dcorev1.Pod{}, shop, "own", `{"metadata":{"finalizers":null}}`),
			t.patch(ctx, &dcorev1.Pod{}, shop, "own", `{"metadata":{"finalizers":["drayage.dev/node","example.com/other","example.com/more"]}}`),
			t.patch(ctx, &dcorev1.Pod{}, shop, "own", `{"spec":{"containers":[{"name":"web","image":"mine:1"}]}}`))
	}},
	{"write another Node or its status, create or delete one", policy, func(ctx context.Context, t *thief) error {
		return first(t.label(ctx, &dcorev1.Node{}, "", other),
			t.patchStatus(ctx, &dcorev1.Node{}, "", other, `{"status":{"addresses":[]}}`),
			t.client.Create(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-of-mine"}}),
			t.client.Delete(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: other}}),
			t.client.Delete(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: own}}))
	}},
	{"change its own taints, cordon, pod addresses, owners or finalizers", policy, func(ctx context.Context, t *thief) error {
		return first(t.patch(ctx, &dcorev1.Node{}, "", own, `{"spec":{"taints":null}}`),
			t.patch(ctx, &dcorev1.Node{}, "", own, `{"spec":{"unschedulable":true}}`),
			t.patch(ctx, &dcorev1.Node{}, "", own, `{"spec":{"podCIDR":"10.96.0.0/16"}}`),
			t.patch(ctx, &dcorev1.Node{}, "", own, `{"metadata":{"finalizers":["example.com/mine"]}}`),
			t.patch(ctx, &dcorev1.Node{}, "", own, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"x"}]}}`))
	}},
	{"set or remove labels that administrators steer pods by (`node-role.kubernetes.io/`, `node-restriction.kubernetes.io/`, `drayage.dev/`)", policy, func(ctx context.Context, t *thief) error {
		var tried []error
		for _, key := range []string{"node-role.kubernetes.io/control-plane", "node-restriction.kubernetes.io/zone", "x.node-restriction.kubernetes.io/a", "drayage.dev/x", "foo.k8s.io/a"} {
			tried = append(tried, t.patch(ctx, &dcorev1.Node{}, "", own, `{"metadata":{"labels":{"`+key+`":"x"}}}`))
		}
		return first(tried...)
	}},
	{"renew, take or delete the Lease of another node, or delete its own", policy, func(ctx context.Context, t *thief) error {
		return first(t.renew(ctx, other), t.client.Create(ctx, lease("node-of-mine")), t.client.Delete(ctx, lease(other)), t.client.Delete(ctx, lease(own)))
	}},
	{"take the Leases that elect leaders", roles, func(ctx context.Context, t *thief) error {
		object := lease("drayage-manager")
		object.Namespace = agents
		return first(t.client.Create(ctx, object), t.client.Update(ctx, object))
	}},
	{"report events in the name of another node", policy, func(ctx context.Context, t *thief) error { return t.report(ctx, other) }},
	{"write Services, EndpointSlices or Deployments", roles, func(ctx context.Context, t *thief) error {
		meta := metav1.ObjectMeta{Namespace: shop, Name: "mine"}
		return first(t.client.Create(ctx, &dcorev1.Service{ObjectMeta: meta}),
			t.client.Create(ctx, &ddiscoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4}),
			t.client.Create(ctx, &dappsv1.Deployment{ObjectMeta: meta}))
	}},
	{"grant itself more, impersonate, or change roles and policies", roles, func(ctx context.Context, t *thief) error {
		config := rest.CopyConfig(t.config)
		config.Impersonate.UserName = "system:admin"
		impersonator := newThief("", config)
		return first(t.client.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "mine"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		}), impersonator.client.List(ctx, &corev1.NamespaceList{}),
			t.clientset.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, "drayage-node-pods", metav1.DeleteOptions{}))
	}},
	{"get a certificate of another node, or of anybody else", signer, func(ctx context.Context, t *thief) error {
		return first(t.sign(ctx, dcorev1.NodeUserPrefix+other, dcorev1.NodesGroup), t.sign(ctx, "drayage:apiserver", "system:masters"))
	}},
}

// first returns nil when one of the attempts succeeded, else what refused them.
func first(tried ...error) error {
	for _, err := range tried {
		if err == nil {
			return nil
		}
		if !apierrors.IsForbidden(err) {
			return err
		}
	}
	return tried[0]
}

func (t *thief) patch(ctx context.Context, object client.Object, namespace, name, patch string) error {
	object.SetNamespace(namespace)
	object.SetName(name)
	return t.client.Patch(ctx, object, client.RawPatch(types.MergePatchType, []byte(patch)))
}

func (t *thief) patchStatus(ctx context.Context, object client.Object, namespace, name, patch string) error {
	object.SetNamespace(namespace)
	object.SetName(name)
	return t.client.Status().Patch(ctx, object, client.RawPatch(types.MergePatchType, []byte(patch)))
}

// label sets a label, to another value each time.
func (t *thief) label(ctx context.Context, object client.Object, namespace, name string) error {
	return t.patch(ctx, object, namespace, name, fmt.Sprintf(`{"metadata":{"labels":{"stolen":"at-%d"}}}`, time.Now().UnixNano()))
}

func lease(name string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: name}}
}

// renew updates a lease, as agents do.
func (t *thief) renew(ctx context.Context, name string) error {
	object := lease(name)
	if err := t.client.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
		return err
	}
	object.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	return t.client.Update(ctx, object)
}

func (t *thief) report(ctx context.Context, node string) error {
	return t.client.Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: shop, GenerateName: "event-"}, Source: corev1.EventSource{Component: "drayage-agent", Host: node},
		InvolvedObject: corev1.ObjectReference{APIVersion: "core.drayage.dev/v1", Kind: "Pod", Namespace: shop, Name: "other"}, Reason: "Spec", Type: "Normal",
	})
}

func (t *thief) request(ctx context.Context, method, path, body string) (*http.Response, error) {
	httpClient, err := rest.HTTPClientFor(t.config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, t.config.Host+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	status := apierrors.NewGenericServerResponse(response.StatusCode, strings.ToLower(method), dcorev1.Resource("pods"), path, string(text), 0, true)
	return nil, status
}

func (t *thief) get(ctx context.Context, path string) error {
	response, err := t.request(ctx, http.MethodGet, path, "")
	if err == nil {
		response.Body.Close()
	}
	return err
}

func (t *thief) post(ctx context.Context, path, body string) error {
	response, err := t.request(ctx, http.MethodPost, path, body)
	if err == nil {
		response.Body.Close()
	}
	return err
}

// stream reads what the broker first says to a node.
func (t *thief) stream(ctx context.Context, node string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	response, err := t.request(ctx, http.MethodGet, "/apis/subresources.drayage.dev/v1alpha1/nodes/"+node+"/podobjects", "")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var seen strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(seen.String(), `"type":"Synced"`) {
		n, err := response.Body.Read(buffer)
		seen.Write(buffer[:n])
		if err != nil {
			return "", fmt.Errorf("after %q: %w", seen.String(), err)
		}
	}
	return seen.String(), nil
}

// mint asks the broker for a token of a pod.
func (t *thief) mint(ctx context.Context, node, name string) error {
	pod := get(ctx, shop, name)
	body, err := json.Marshal(subresourcesv1alpha1.PodTokenRequest{Pod: subresourcesv1alpha1.PodIdentity{Namespace: shop, Name: name, UID: pod.UID}})
	if err != nil {
		return err
	}
	return t.post(ctx, "/apis/subresources.drayage.dev/v1alpha1/nodes/"+node+"/podtokens", string(body))
}

// sign asks for a client certificate, and for its being approved.
func (t *thief) sign(ctx context.Context, user, group string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: user, Organization: []string{group}}}, key)
	if err != nil {
		return err
	}
	request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "mine-"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: "drayage.dev/node-client", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
	}}
	requests := t.clientset.CertificatesV1().CertificateSigningRequests()
	if request, err = requests.Create(ctx, request, metav1.CreateOptions{}); err != nil {
		return err
	}
	request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Mine"}}
	if _, err := requests.UpdateApproval(ctx, request.Name, request, metav1.UpdateOptions{}); err == nil {
		return nil
	}
	// The signer decides in a moment: it says no, and gives nothing.
	for ctx.Err() == nil {
		live := &certificatesv1.CertificateSigningRequest{}
		if err := admin.Get(ctx, client.ObjectKey{Name: request.Name}, live); err != nil {
			return err
		}
		if len(live.Status.Certificate) > 0 {
			return nil
		}
		for _, condition := range live.Status.Conditions {
			if condition.Type == certificatesv1.CertificateDenied || condition.Type == certificatesv1.CertificateFailed {
				return apierrors.NewForbidden(certificatesv1.Resource("certificatesigningrequests"), request.Name, errors.New(condition.Message))
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return ctx.Err()
}

// restoreFinalizers gives the pod back what an attempt took off.
func restoreFinalizers(ctx context.Context) {
	pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: "own"}}
	patch := `{"metadata":{"finalizers":["drayage.dev/node","example.com/other"]}}`
	_ = admin.Patch(ctx, pod, client.RawPatch(types.MergePatchType, []byte(patch)))
}
