package admission

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/capabilities"

	// The conversions and defaults of the groups that this package works on.
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
)

// object is one of upstream's external types.
type object interface {
	runtime.Object
	metav1.Object
}

// allowPrivileged switches off upstream's global ban on privileged containers, as every cluster's
// --allow-privileged does: whether a namespace may have them is for its pod security standard to say.
// Upstream keeps it per process and takes the first setting.
func allowPrivileged() { capabilities.Setup(true, 0) }

// create runs upstream's creation strategy over obj, by way of the empty internal object that it is
// handed, and leaves in obj what the strategy made of it. Metadata stays as it was: that is the API
// server's.
func create(ctx context.Context, strategy rest.RESTCreateStrategy, obj object, internal runtime.Object) ([]string, field.ErrorList) {
	allowPrivileged()
	if err := legacyscheme.Scheme.Convert(obj, internal, nil); err != nil {
		return nil, field.ErrorList{field.InternalError(nil, fmt.Errorf("converting %T: %w", obj, err))}
	}
	accessor, err := meta.Accessor(internal)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	if accessor.GetName() == "" && accessor.GetGenerateName() != "" {
		// Names are generated after admission; validation needs one that looks like it.
		accessor.SetName(names.SimpleNameGenerator.GenerateName(accessor.GetGenerateName()))
	}
	strategy.PrepareForCreate(ctx, internal)
	if errs := strategy.Validate(ctx, internal); len(errs) > 0 {
		return nil, errs
	}
	return strategy.WarningsOnCreate(ctx, internal), writeBack(internal, obj)
}

// update is create for a change of old to obj. Both are written to.
func update(ctx context.Context, strategy rest.RESTUpdateStrategy, obj object, internal runtime.Object, old object, oldInternal runtime.Object) ([]string, field.ErrorList) {
	warnings, errs := validateUpdate(ctx, strategy, obj, internal, old, oldInternal)
	if len(errs) > 0 {
		return warnings, errs
	}
	return warnings, writeBack(internal, obj)
}

// validateUpdate is update without the writing back.
func validateUpdate(ctx context.Context, strategy rest.RESTUpdateStrategy, obj object, internal runtime.Object, old object, oldInternal runtime.Object) ([]string, field.ErrorList) {
	allowPrivileged()
	completeMetadata(obj, old)
	if err := legacyscheme.Scheme.Convert(obj, internal, nil); err != nil {
		return nil, field.ErrorList{field.InternalError(nil, fmt.Errorf("converting %T: %w", obj, err))}
	}
	if err := legacyscheme.Scheme.Convert(old, oldInternal, nil); err != nil {
		return nil, field.ErrorList{field.InternalError(nil, fmt.Errorf("converting old %T: %w", old, err))}
	}
	strategy.PrepareForUpdate(ctx, internal, oldInternal)
	// Strategies of status clear the deletion timestamp, and upstream's server puts it back after them.
	if prepared, ok := internal.(metav1.Object); ok {
		prepared.SetDeletionTimestamp(obj.GetDeletionTimestamp())
	}
	if errs := strategy.ValidateUpdate(ctx, internal, oldInternal); len(errs) > 0 {
		return nil, errs
	}
	return strategy.WarningsOnUpdate(ctx, internal, oldInternal), nil
}

// writeBack turns internal into obj again, save for its metadata.
func writeBack(internal runtime.Object, obj object) field.ErrorList {
	labels, generation, name := obj.GetLabels(), obj.GetGeneration(), obj.GetName()
	if err := legacyscheme.Scheme.Convert(internal, obj, nil); err != nil {
		return field.ErrorList{field.InternalError(nil, fmt.Errorf("converting back to %T: %w", obj, err))}
	}
	obj.SetLabels(labels)
	obj.SetGeneration(generation)
	obj.SetName(name)
	return nil
}

// completeMetadata fills in what the API server puts into an update's metadata after admission, so that
// validation does not take it for a change.
func completeMetadata(obj, old object) {
	if obj.GetUID() == "" {
		obj.SetUID(old.GetUID())
	}
	if obj.GetResourceVersion() == "" {
		obj.SetResourceVersion(old.GetResourceVersion())
	}
	if created := old.GetCreationTimestamp(); !created.IsZero() {
		obj.SetCreationTimestamp(created)
	}
	if !old.GetDeletionTimestamp().IsZero() {
		obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	}
	if obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
	obj.SetGeneration(old.GetGeneration())
}
