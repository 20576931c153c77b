package controlplane

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	dcorev1 "drayage.dev/apis/core/v1"
)

// nodeReads keeps nodes from reading the pods of others. It only ever refuses; what a node may do otherwise,
// RBAC says. Upstream has the same rule in its node authorizer.
type nodeReads struct{ bound *boundObjects }

var _ authorizer.Authorizer = nodeReads{}

// Authorize refuses a node's read of pods unless it selects its own by spec.nodeName, or names one of them.
func (a nodeReads) Authorize(ctx context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	caller := request.GetUser()
	if request.GetAPIGroup() != dcorev1.GroupVersion.Group || request.GetResource() != "pods" || !request.IsReadOnly() ||
		caller == nil || !slices.Contains(caller.GetGroups(), dcorev1.NodesGroup) {
		return authorizer.DecisionNoOpinion, "", nil
	}
	node, named := strings.CutPrefix(caller.GetName(), dcorev1.NodeUserPrefix)
	if !named || node == "" {
		return authorizer.DecisionDeny, "the identity names no node", nil
	}
	if request.GetVerb() == "get" {
		return a.one(ctx, node, request.GetNamespace(), request.GetName())
	}
	requirements, err := request.GetFieldSelector()
	if err != nil {
		return authorizer.DecisionDeny, fmt.Sprintf("reading the field selector: %v", err), nil
	}
	for _, requirement := range requirements {
		if requirement.Field == dcorev1.NodeNameField && requirement.Operator == selection.Equals && requirement.Value == node {
			return authorizer.DecisionNoOpinion, "", nil
		}
	}
	return authorizer.DecisionDeny, fmt.Sprintf("a node reads the pods that are bound to it: select them by %s=%s", dcorev1.NodeNameField, node), nil
}

// one looks the pod up. That one does not exist is no secret: an agent has to learn it.
func (a nodeReads) one(ctx context.Context, node, namespace, name string) (authorizer.Decision, string, error) {
	pod, err := a.bound.pod(ctx, namespace, name)
	switch {
	case apierrors.IsNotFound(err):
		return authorizer.DecisionNoOpinion, "", nil
	case err != nil:
		return authorizer.DecisionDeny, "", fmt.Errorf("finding the node of pod %s/%s: %w", namespace, name, err)
	case pod.Spec.NodeName != node:
		return authorizer.DecisionDeny, fmt.Sprintf("the pod is not bound to node %q", node), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}
