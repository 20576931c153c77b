package deployment

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	appsdefaults "k8s.io/kubernetes/pkg/apis/apps/v1"
	"k8s.io/kubernetes/pkg/controller"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	labelsutil "k8s.io/kubernetes/pkg/util/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dappsv1 "drayage.dev/apis/apps/v1"
	"drayage.dev/internal/upstream"
)

// historyLength bounds the annotation that lists the revisions a ReplicaSet has served, in characters.
// Upstream's number.
const historyLength = 2000

// apply makes the ReplicaSets what the intents say, keeps the annotations of the new one, and puts what
// it wrote into seen. One write per ReplicaSet at most. Nothing is written once the Deployment is being
// deleted.
func (r *reconciler) apply(ctx context.Context, seen *Observed, intents []ReplicaIntent) error {
	if seen.Deployment.DeletionTimestamp != nil {
		return nil
	}
	wanted := map[string]*ReplicaIntent{}
	for i := range intents {
		wanted[intents[i].ReplicaSet] = &intents[i]
	}
	if err := r.applyNew(ctx, seen, wanted); err != nil {
		return err
	}
	for i, old := range seen.Old {
		intent := wanted[old.Name]
		if intent == nil {
			continue
		}
		changed := old.DeepCopy()
		resize(changed, seen.Deployment, *intent)
		written, err := r.update(ctx, seen.Deployment, old, changed)
		if err != nil {
			return err
		}
		seen.Old[i] = written
	}
	return nil
}

func (r *reconciler) applyNew(ctx context.Context, seen *Observed, wanted map[string]*ReplicaIntent) error {
	if seen.New == nil {
		intent := wanted[""]
		if intent == nil {
			return nil
		}
		created, err := r.create(ctx, *seen, *intent)
		seen.New = created
		return err
	}
	changed := seen.New.DeepCopy()
	deploymentutil.SetNewReplicaSetAnnotations(ctx, seen.Deployment, changed, nextRevision(*seen), true, historyLength)
	changed.Spec.MinReadySeconds = seen.Deployment.Spec.MinReadySeconds
	if intent := wanted[seen.New.Name]; intent != nil {
		resize(changed, seen.Deployment, *intent)
	}
	written, err := r.update(ctx, seen.Deployment, seen.New, changed)
	if err != nil {
		return err
	}
	seen.New = written
	return nil
}

// resize gives set the size of intent and notes the Deployment's size for which it was chosen.
func resize(set *appsv1.ReplicaSet, d *appsv1.Deployment, intent ReplicaIntent) {
	if *set.Spec.Replicas != intent.Replicas || intent.Rescaled {
		desired := *d.Spec.Replicas
		deploymentutil.SetReplicasAnnotations(set, desired, desired+deploymentutil.MaxSurge(*d))
	}
	set.Spec.Replicas = &intent.Replicas
}

// update writes the difference between two states of a ReplicaSet, and returns what the API holds then.
func (r *reconciler) update(ctx context.Context, d *appsv1.Deployment, from, to *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	if equality.Semantic.DeepEqual(from.Annotations, to.Annotations) &&
		*from.Spec.Replicas == *to.Spec.Replicas && from.Spec.MinReadySeconds == to.Spec.MinReadySeconds {
		return from, nil
	}
	written := upstream.FromReplicaSet(to)
	patch := client.MergeFromWithOptions(upstream.FromReplicaSet(from), client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, written, patch); err != nil {
		return nil, fmt.Errorf("patching ReplicaSet %s: %w", client.ObjectKeyFromObject(from), err)
	}
	r.written.note(client.ObjectKeyFromObject(d), written, r.clock.Now())
	r.announce(d, from.Name, *from.Spec.Replicas, *to.Spec.Replicas)
	return upstream.ReplicaSet(written), nil
}

// announce tells of a change of size in an event.
func (r *reconciler) announce(d *appsv1.Deployment, set string, from, to int32) {
	direction := "up"
	switch {
	case from == to:
		return
	case from > to:
		direction = "down"
	}
	r.recorder.Eventf(upstream.FromDeployment(d), corev1.EventTypeNormal, "ScalingReplicaSet",
		"Scaled %s replica set %s from %d to %d", direction, set, from, to)
}

// create makes the ReplicaSet of the current template. It returns nil without an error after a hash
// collision: the count of collisions goes into the status, whose change starts the next pass.
func (r *reconciler) create(ctx context.Context, seen Observed, intent ReplicaIntent) (*appsv1.ReplicaSet, error) {
	d := seen.Deployment
	set := newReplicaSet(ctx, seen, intent)
	created := upstream.FromReplicaSet(set)
	err := r.client.Create(ctx, created)
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil, r.resolveCollision(ctx, d, set.Name)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, err
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", set.Name, err)
		noteProgress(d, corev1.ConditionFalse, deploymentutil.FailedRSCreateReason, message)
		r.recorder.Event(upstream.FromDeployment(d), corev1.EventTypeWarning, deploymentutil.FailedRSCreateReason, message)
		return nil, fmt.Errorf("creating ReplicaSet %s: %w", client.ObjectKeyFromObject(set), err)
	}
	r.written.note(client.ObjectKeyFromObject(d), created, r.clock.Now())
	r.announce(d, set.Name, 0, intent.Replicas)
	noteProgress(d, corev1.ConditionTrue, deploymentutil.NewReplicaSetReason, fmt.Sprintf("Created new replica set %q", set.Name))
	return upstream.ReplicaSet(created), nil
}

// newReplicaSet is the ReplicaSet of the current template. Its name follows from the template, so that
// whoever tries to create it twice learns of the first.
func newReplicaSet(ctx context.Context, seen Observed, intent ReplicaIntent) *appsv1.ReplicaSet {
	d := seen.Deployment
	template := *d.Spec.Template.DeepCopy()
	hash := controller.ComputeHash(&template, d.Status.CollisionCount)
	template.Labels = labelsutil.CloneAndAddLabel(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            replicaSetName(d.Name, hash),
			Namespace:       d.Namespace,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
			Labels:          template.Labels,
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        &intent.Replicas,
			MinReadySeconds: d.Spec.MinReadySeconds,
			Selector:        labelsutil.CloneSelectorAndAddLabel(d.Spec.Selector, appsv1.DefaultDeploymentUniqueLabelKey, hash),
			Template:        template,
		},
	}
	deploymentutil.SetNewReplicaSetAnnotations(ctx, d, set, nextRevision(seen), false, historyLength)
	return set
}

// replicaSetName appends hash to a Deployment's name, shortened where the whole would be too long.
func replicaSetName(deployment, hash string) string {
	room := validation.DNS1123SubdomainMaxLength - len("-") - len(hash)
	return deployment[:min(len(deployment), room)] + "-" + hash
}

// resolveCollision looks at the ReplicaSet that already has the name of the new one. Either it is the new
// one, and the cache is behind, or another template has the same hash, and the next one must differ.
func (r *reconciler) resolveCollision(ctx context.Context, d *appsv1.Deployment, name string) error {
	existing := &dappsv1.ReplicaSet{}
	if err := r.live.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: name}, existing); err != nil {
		return fmt.Errorf("reading ReplicaSet %s/%s, which already exists: %w", d.Namespace, name, err)
	}
	view := upstream.ReplicaSet(existing)
	appsdefaults.SetObjectDefaults_ReplicaSet(view)
	if metav1.IsControlledBy(existing, d) && deploymentutil.EqualIgnoreHash(&d.Spec.Template, &view.Spec.Template) {
		return errCacheBehind
	}
	count := int32(1)
	if d.Status.CollisionCount != nil {
		count += *d.Status.CollisionCount
	}
	d.Status.CollisionCount = &count
	log.FromContext(ctx).Info("found a ReplicaSet of another template under the hash of the new one",
		"replicaSet", name, "collisions", count)
	return nil
}

// trimHistory deletes the old ReplicaSets beyond the history limit, once a rollout is complete or while
// the Deployment is paused.
func (r *reconciler) trimHistory(ctx context.Context, seen Observed, status appsv1.DeploymentStatus) error {
	d := seen.Deployment
	if d.DeletionTimestamp != nil || !(d.Spec.Paused || deploymentutil.DeploymentComplete(d, &status)) {
		return nil
	}
	for _, set := range surplusHistory(seen) {
		err := r.client.Delete(ctx, upstream.FromReplicaSet(set), client.PropagationPolicy(metav1.DeletePropagationBackground),
			client.Preconditions{UID: &set.UID, ResourceVersion: &set.ResourceVersion})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting ReplicaSet %s: %w", client.ObjectKeyFromObject(set), err)
		}
	}
	return nil
}
