package scheduler

import (
	"context"
	"fmt"
	"runtime/debug"

	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	kubescheduler "k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

type schedulePod = func(context.Context, framework.Framework, fwk.CycleState, *framework.QueuedPodInfo) (kubescheduler.ScheduleResult, error)

// guard makes a panic of a plugin that runs in the scheduling cycle's own goroutine an error: the pod that it is about
// backs off, and others are placed. A panic in one of upstream's further goroutines (Filter, Score, the binding
// cycle) ends the process, as it does kube-scheduler; the next start finds the truth in the API.
func guard(place schedulePod) schedulePod {
	return func(ctx context.Context, f framework.Framework, state fwk.CycleState, info *framework.QueuedPodInfo) (result kubescheduler.ScheduleResult, err error) {
		defer func() {
			if cause := recover(); cause != nil {
				klog.FromContext(ctx).Error(nil, "A plugin panicked", "pod", klog.KObj(info.Pod), "cause", cause, "stack", string(debug.Stack()))
				result, err = kubescheduler.ScheduleResult{}, fmt.Errorf("a plugin panicked: %v", cause)
			}
		}()
		return place(ctx, f, state, info)
	}
}
