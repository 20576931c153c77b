package gitops_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	kubectlapply "k8s.io/kubectl/pkg/cmd/apply"
	kubectldiff "k8s.io/kubectl/pkg/cmd/diff"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"drayage.dev/agent"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray/convert"
)

// gitManager is Flux's field manager; Argo CD's is argocd-controller and works the same way.
const gitManager = client.FieldOwner("kustomize-controller")

var _ = Describe("manifests from Git", func() {
	It("stay as Git has them, and no part of them is anybody else's", func(ctx SpecContext) {
		applied := applyAll(ctx, newNamespace(ctx), converted("testdata/manifests.yaml"), converted("../manifests"))
		Expect(len(applied)).To(BeNumerically(">", 30))
		for _, object := range applied {
			settle(ctx, object)
		}
		for _, object := range applied {
			if !strings.HasSuffix(object.GroupVersionKind().Group, ".drayage.dev") {
				continue // the API server's own kinds
			}
			which := fmt.Sprintf("%s %s", object.GetKind(), object.GetName())
			now := live(ctx, object)
			Expect(changed("", object.Object, now.Object)).To(BeEmpty(), which)
			Expect(shared(now)).To(BeEmpty(), which)

			// This is how Flux and Argo CD find drift: they ask what an apply would change.
			again := object.DeepCopy()
			Expect(api.Patch(ctx, again, client.Apply, gitManager, client.ForceOwnership, client.DryRunAll)).To(Succeed()) //nolint:staticcheck // objects of any kind
			Expect(content(again)).To(Equal(content(now)), which)
			again = object.DeepCopy()
			Expect(api.Patch(ctx, again, client.Apply, gitManager, client.ForceOwnership)).To(Succeed()) //nolint:staticcheck // objects of any kind
			Expect(content(again)).To(Equal(content(now)), which)
			// Controllers may write a status in between, but not each time.
			Eventually(func(g Gomega) {
				before, again := live(ctx, object), object.DeepCopy()
				g.Expect(api.Patch(ctx, again, client.Apply, gitManager, client.ForceOwnership)).To(Succeed()) //nolint:staticcheck // objects of any kind
				g.Expect(again.GetResourceVersion()).To(Equal(before.GetResourceVersion()))
			}).Should(Succeed(), which+" is not written anew")
		}
	}, SpecTimeout(10*time.Minute))

	DescribeTable("are unchanged when they are applied again by kubectl", func(ctx SpecContext, flags ...string) {
		namespace := newNamespace(ctx)
		text := converted("testdata/manifests.yaml")
		text = strings.ReplaceAll(strings.ReplaceAll(text, "30030", "30031"), "10.96.0.30", "10.96.0.31")
		file := filepath.Join(GinkgoT().TempDir(), "manifests.yaml")
		Expect(os.WriteFile(file, []byte(text), 0o644)).To(Succeed())
		kubectl(namespace, kubectlapply.NewCmdApply, append([]string{"-f", file}, flags...)...)
		var before []*unstructured.Unstructured
		for _, object := range documents(text, namespace) {
			before = append(before, settle(ctx, object))
		}
		kubectl(namespace, kubectlapply.NewCmdApply, append([]string{"-f", file}, flags...)...)
		for _, object := range before {
			now := live(ctx, object)
			Expect(now.GetGeneration()).To(Equal(object.GetGeneration()))
			Expect(content(now)).To(Equal(content(object)))
		}
		kubectl(namespace, func(_ string, f cmdutil.Factory, streams genericiooptions.IOStreams) command {
			return kubectldiff.NewCmdDiff(f, streams)
		}, append([]string{"-f", file}, flags...)...)
	},
		Entry("on the client's side"),
		Entry("on the server's side", "--server-side"),
	)
})

// converted is what `dray convert` makes of manifests.
func converted(path string) string {
	GinkgoHelper()
	var out, notes bytes.Buffer
	command := convert.NewCommand(genericiooptions.IOStreams{Out: &out, ErrOut: &notes})
	command.SetArgs([]string{"-f", path, "-R"})
	Expect(command.Execute()).To(Succeed())
	return out.String()
}

// documents are the objects of a text, in a namespace where they name none.
func documents(text, namespace string) []*unstructured.Unstructured {
	GinkgoHelper()
	var objects []*unstructured.Unstructured
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		object := &unstructured.Unstructured{}
		data, err := yaml.YAMLToJSON([]byte(document))
		Expect(err).NotTo(HaveOccurred())
		if string(data) == "null" {
			continue
		}
		Expect(object.UnmarshalJSON(data)).To(Succeed())
		mapping, err := api.RESTMapper().RESTMapping(object.GroupVersionKind().GroupKind(), object.GroupVersionKind().Version)
		if meta.IsNoMatchError(err) {
			continue // a kind of another product
		}
		Expect(err).NotTo(HaveOccurred())
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace && object.GetNamespace() == "" {
			object.SetNamespace(namespace)
		}
		objects = append(objects, object)
	}
	return objects
}

// applyAll applies texts as Flux does, namespaces first. What Drayage refuses by name is left out.
func applyAll(ctx context.Context, namespace string, texts ...string) []*unstructured.Unstructured {
	GinkgoHelper()
	var objects, applied []*unstructured.Unstructured
	for _, text := range texts {
		objects = append(objects, documents(text, namespace)...)
	}
	for _, object := range objects {
		if own := object.GetNamespace(); own != "" && own != namespace {
			_ = api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: own}})
		}
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int {
		first := func(o *unstructured.Unstructured) int {
			return strings.Index("Namespace PriorityClass", o.GetKind()) * -1
		}
		return first(a) - first(b)
	})
	seen := map[string]bool{}
	for _, object := range objects {
		key := fmt.Sprint(object.GroupVersionKind(), client.ObjectKeyFromObject(object))
		if seen[key] {
			continue
		}
		seen[key] = true
		var err error
		Eventually(func() error {
			err = api.Patch(ctx, object.DeepCopy(), client.Apply, gitManager, client.ForceOwnership) //nolint:staticcheck // objects of any kind
			return err
		}).ShouldNot(Satisfy(apierrors.IsForbidden), "while its namespace's account is to come: "+key)
		if err != nil && strings.Contains(err.Error(), "not implemented by Drayage yet") {
			continue
		}
		Expect(err).NotTo(HaveOccurred(), key)
		applied = append(applied, object)
	}
	return applied
}

func live(ctx context.Context, object client.Object) *unstructured.Unstructured {
	GinkgoHelper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(object.GetObjectKind().GroupVersionKind())
	Expect(api.Get(ctx, client.ObjectKeyFromObject(object), u)).To(Succeed())
	return u
}

// settle plays the agent where the object has pods, and waits until controllers have nothing more to do.
func settle(ctx context.Context, object *unstructured.Unstructured) *unstructured.Unstructured {
	GinkgoHelper()
	if _, drayage := ownConditions[object.GetKind()]; !drayage {
		return live(ctx, object)
	}
	switch object.GetKind() {
	case "Deployment", "ReplicaSet":
		Eventually(func(g Gomega) {
			selector, _, _ := unstructured.NestedStringMap(object.Object, "spec", "selector", "matchLabels")
			runSelected(ctx, object.GetNamespace(), selector)
			conditions, _, _ := unstructured.NestedSlice(live(ctx, object).Object, "status", "conditions")
			g.Expect(conditions).To(ContainElement(And(HaveKeyWithValue("type", "Ready"), HaveKeyWithValue("status", "True"))))
		}).Should(Succeed(), "settling "+object.GetKind()+" "+object.GetName())
	case "Service":
		Eventually(func(g Gomega) {
			now := live(ctx, object)
			observed, _, _ := unstructured.NestedInt64(now.Object, "status", "observedGeneration")
			g.Expect(observed).To(Equal(now.GetGeneration()))
		}).Should(Succeed())
	case "Node":
		DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(api.Delete(ctx, live(ctx, object)))).To(Succeed()) })
		Eventually(func() ([]any, error) {
			// Its taints are written before its conditions.
			conditions, _, err := unstructured.NestedSlice(live(ctx, object).Object, "status", "conditions")
			return conditions, err
		}).Should(ContainElement(HaveKeyWithValue("type", "Stalled")), "nobody hears of it")
	case "Pod":
		p := &dcorev1.Pod{}
		Eventually(func() ([]corev1.PodCondition, error) {
			err := api.Get(ctx, client.ObjectKeyFromObject(object), p)
			return p.Status.Conditions, err
		}).ShouldNot(BeEmpty(), "the scheduler speaks first")
		report(ctx, p, allRunning(p), nil)
	}
	// Whoever still has something to write does so within this time.
	version := live(ctx, object).GetResourceVersion()
	Eventually(func() bool {
		before := version
		version = live(ctx, object).GetResourceVersion()
		return before == version
	}, time.Minute, "400ms").Should(BeTrue())
	return live(ctx, object)
}

// runSelected plays the agent for the pods of a selector that are not ready yet.
func runSelected(ctx context.Context, namespace string, selector map[string]string) {
	GinkgoHelper()
	var pods dcorev1.PodList
	Expect(api.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels(selector))).To(Succeed())
	for i := range pods.Items {
		if p := &pods.Items[i]; p.Status.Phase != corev1.PodRunning && p.DeletionTimestamp == nil {
			report(ctx, p, allRunning(p), nil)
		}
	}
}

// allRunning is what a runtime holds of a pod whose containers all run, after its init containers.
func allRunning(p *dcorev1.Pod) agent.PodState {
	state := runtimeState(p, running)
	state.Containers = nil
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			c := agent.Container{ID: list[i].Name, Name: list[i].Name, SandboxID: "0", Image: list[i].Image}
			running(&c)
			if i < len(p.Spec.InitContainers) && &list[0] == &p.Spec.InitContainers[0] && list[i].RestartPolicy == nil {
				exited(0)(&c)
			}
			state.Containers = append(state.Containers, c)
		}
	}
	return state
}

// content is an object without its bookkeeping and its status.
func content(object *unstructured.Unstructured) map[string]any {
	object = object.DeepCopy()
	object.SetManagedFields(nil)
	object.SetResourceVersion("")
	delete(object.Object, "status")
	return object.Object
}

// changed lists the fields of a manifest that have another value, or none, in the live object.
func changed(path string, manifest, live any) []string {
	switch manifest := manifest.(type) {
	case map[string]any:
		live, _ := live.(map[string]any)
		var list []string
		for key, value := range manifest {
			list = append(list, changed(path+"."+key, value, live[key])...)
		}
		return list
	case []any:
		live, _ := live.([]any)
		var list []string
		for i, value := range manifest {
			if i >= len(live) {
				return append(list, fmt.Sprintf("%s[%d] is gone", path, i))
			}
			list = append(list, changed(fmt.Sprintf("%s[%d]", path, i), value, live[i])...)
		}
		return list
	}
	// As core's kinds, ours have amounts in their shortest form.
	a, errA := resource.ParseQuantity(fmt.Sprint(manifest))
	b, errB := resource.ParseQuantity(fmt.Sprint(live))
	if fmt.Sprint(manifest) != fmt.Sprint(live) && (errA != nil || errB != nil || a.Cmp(b) != 0) {
		return []string{fmt.Sprintf("%s is %v, Git has %v", path, live, manifest)}
	}
	return nil
}

// shared lists the fields that Git's manager has together with another one, or had to take from one.
func shared(object *unstructured.Unstructured) []string {
	GinkgoHelper()
	var git map[string]any
	found := false
	others := map[string]map[string]any{}
	for _, entry := range object.GetManagedFields() {
		fields := map[string]any{}
		Expect(json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields)).To(Succeed())
		if entry.Manager == string(gitManager) {
			git, found = fields, true
		} else {
			others[entry.Manager+" "+entry.Subresource] = fields
		}
	}
	Expect(found).To(BeTrue(), "%s %s: %v", object.GetKind(), object.GetName(), object.GetManagedFields())
	var list []string
	for manager, fields := range others {
		for _, path := range common("", git, fields) {
			list = append(list, path+" is also "+manager+"'s")
		}
	}
	return list
}

// common lists the leaves that two sets of fields have in common.
func common(path string, a, b map[string]any) []string {
	var list []string
	for key, value := range a {
		other, found := b[key]
		if !found || key == "." {
			continue
		}
		below, _ := value.(map[string]any)
		others, _ := other.(map[string]any)
		if len(below) == 0 || len(others) == 0 {
			list = append(list, path+"/"+key)
			continue
		}
		list = append(list, common(path+"/"+key, below, others)...)
	}
	return list
}

// command is what kubectl's commands have in common with each other.
type command interface {
	SetArgs(args []string)
	Execute() error
}

// kubectl runs one of kubectl's commands, which must succeed.
func kubectl[C command](namespace string, newCommand func(string, cmdutil.Factory, genericiooptions.IOStreams) C, args ...string) {
	GinkgoHelper()
	flags := genericclioptions.NewConfigFlags(false)
	flags.Namespace = &namespace
	flags.WrapConfigFn = func(*rest.Config) *rest.Config { return rest.CopyConfig(testEnv.Config) }
	var out bytes.Buffer
	c := newCommand("kubectl", cmdutil.NewFactory(cmdutil.NewMatchVersionFlags(flags)), genericiooptions.IOStreams{Out: &out, ErrOut: &out})
	cmdutil.BehaviorOnFatal(func(message string, code int) {
		panic(fmt.Sprintf("exit code %d: %s", code, message))
	})
	defer cmdutil.DefaultBehaviorOnFatal()
	defer func() {
		if fatal := recover(); fatal != nil {
			Fail(fmt.Sprintf("kubectl %s: %v\n%s", strings.Join(args, " "), fatal, out.String()))
		}
	}()
	c.SetArgs(args)
	Expect(c.Execute()).To(Succeed())
	GinkgoWriter.Println(out.String())
}
