package admission

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// refusal marks an error that upstream's admission plugins answer with 403 Forbidden and no field.
const refusal = "admission"

func refuse(path *field.Path, detail string) field.ErrorList {
	return field.ErrorList{field.Forbidden(path, detail).WithOrigin(refusal)}
}

// StatusError makes the API's answer out of errs: 422 Invalid as validation answers, 403 Forbidden as
// upstream's admission plugins do for an unknown priority class or service account, 500 where a lookup
// went wrong. It returns nil for no errs.
func StatusError(kind schema.GroupKind, resource schema.GroupResource, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	forbidden := name
	if forbidden == "" {
		forbidden = "Unknown" // upstream's word where there is no name
	}
	for _, err := range errs {
		switch {
		case err.Origin == refusal:
			return apierrors.NewForbidden(resource, forbidden, errors.New(err.Detail))
		case err.Type == field.ErrorTypeInternal:
			return apierrors.NewInternalError(fmt.Errorf("admitting %s %q: %s", resource, name, err.Detail))
		}
	}
	return apierrors.NewInvalid(kind, name, errs)
}
