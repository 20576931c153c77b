package deployment

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	appsdefaults "k8s.io/kubernetes/pkg/apis/apps/v1"
	"k8s.io/kubernetes/pkg/controller"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controllers/apps/claim"
	"drayage.dev/internal/upstream"
)

// defaulted returns a copy of d with every default set. Admission has set them already; setting them
// again keeps a template equal to its ReplicaSet's across an upgrade that brings a new default.
func defaulted(d *dappsv1.Deployment) *appsv1.Deployment {
	view := upstream.Deployment(d.DeepCopy())
	appsdefaults.SetObjectDefaults_Deployment(view)
	return view
}

func selectsEverything(d *appsv1.Deployment) bool {
	return d.Spec.Selector == nil || equality.Semantic.DeepEqual(d.Spec.Selector, &metav1.LabelSelector{})
}

// observe reads what a step decides upon, after adopting and releasing ReplicaSets. It answers
// errCacheBehind as long as the cache does not show what this reconciler wrote last.
func (r *reconciler) observe(ctx context.Context, d *appsv1.Deployment) (Observed, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return Observed{}, fmt.Errorf("reading the selector of Deployment %s: %w", client.ObjectKeyFromObject(d), err)
	}
	var owned, orphans dappsv1.ReplicaSetList
	if err := claim.Controlled(ctx, r.client, d, &owned); err != nil {
		return Observed{}, err
	}
	if r.written.missing(client.ObjectKeyFromObject(d), owned.Items, r.clock.Now()) {
		return Observed{}, errCacheBehind
	}
	if err := claim.Orphans(ctx, r.client, d.Namespace, &orphans); err != nil {
		return Observed{}, err
	}
	var candidates []*dappsv1.ReplicaSet
	for _, items := range [][]dappsv1.ReplicaSet{owned.Items, orphans.Items} {
		for i := range items {
			candidates = append(candidates, &items[i])
		}
	}
	claimed, err := claim.Objects(ctx, claim.Owner{
		Object: upstream.FromDeployment(d), Kind: kind, Selector: selector, Client: r.client, Live: r.live,
	}, candidates)
	if err != nil {
		return Observed{}, fmt.Errorf("claiming the ReplicaSets of Deployment %s: %w", client.ObjectKeyFromObject(d), err)
	}
	sets := make([]*appsv1.ReplicaSet, len(claimed))
	for i, set := range claimed {
		sets[i] = upstream.ReplicaSet(set.DeepCopy())
		appsdefaults.SetObjectDefaults_ReplicaSet(sets[i])
	}
	seen := sortOut(d, sets)
	seen.OldPodsRun, err = r.oldPodsRun(ctx, seen)
	return seen, err
}

// sortOut tells the ReplicaSet of the current template from the others.
func sortOut(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) Observed {
	seen := Observed{Deployment: d, New: deploymentutil.FindNewReplicaSet(d, sets)}
	_, seen.Old = deploymentutil.FindOldReplicaSets(d, sets)
	sort.Sort(controller.ReplicaSetsByCreationTimestamp(seen.Old))
	return seen
}

// oldPodsRun is Observed.OldPodsRun. A pod that is terminating runs until its node says otherwise.
func (r *reconciler) oldPodsRun(ctx context.Context, seen Observed) (bool, error) {
	if seen.Deployment.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return false, nil
	}
	for _, old := range seen.Old {
		if old.Status.Replicas > 0 {
			return true, nil
		}
		var pods dcorev1.PodList
		if err := claim.Controlled(ctx, r.client, old, &pods); err != nil {
			return false, err
		}
		for i := range pods.Items {
			if !podutil.IsPodTerminal(upstream.Pod(&pods.Items[i])) {
				return true, nil
			}
		}
	}
	return false, nil
}

// ownWrites remembers which generations of ReplicaSets this reconciler has written and the cache has not
// shown yet. Planning upon a mixture of new and old sizes could shrink an old ReplicaSet twice, and leave
// fewer pods available than the Deployment allows.
type ownWrites struct {
	mutex   sync.Mutex
	pending map[types.NamespacedName]pendingWrites
}

// pendingWrites are the awaited generations of one Deployment's ReplicaSets, by name.
type pendingWrites struct {
	generations map[string]int64
	since       time.Time
}

// patience bounds how long a write is awaited: one that somebody undid at once, by deleting the
// ReplicaSet, never shows.
const patience = 10 * time.Second

func newOwnWrites() *ownWrites {
	return &ownWrites{pending: map[types.NamespacedName]pendingWrites{}}
}

// note remembers a write of set, as the API answered it.
func (w *ownWrites) note(deployment types.NamespacedName, set metav1.Object, now time.Time) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	entry := w.pending[deployment]
	if entry.generations == nil {
		entry.generations = map[string]int64{}
	}
	entry.generations[set.GetName()], entry.since = set.GetGeneration(), now
	w.pending[deployment] = entry
}

// missing says that sets, read from the cache, lack a noted write.
func (w *ownWrites) missing(deployment types.NamespacedName, sets []dappsv1.ReplicaSet, now time.Time) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	entry := w.pending[deployment]
	for i := range sets {
		if written, noted := entry.generations[sets[i].Name]; noted && sets[i].Generation >= written {
			delete(entry.generations, sets[i].Name)
		}
	}
	if len(entry.generations) == 0 || now.Sub(entry.since) > patience {
		delete(w.pending, deployment)
		return false
	}
	return true
}

// forget drops what is remembered of a Deployment that is gone.
func (w *ownWrites) forget(deployment types.NamespacedName) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	delete(w.pending, deployment)
}
