package podworker

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"drayage.dev/agent"
	"drayage.dev/agent/probes"
)

func in(name string, phase agent.ContainerPhase, code int32) agent.Container {
	return agent.Container{ID: name + "-id", Name: name, SandboxID: "new", Phase: phase, ExitCode: code, CreatedAt: time.Unix(1, 0)}
}

// look is what a plan is made from in these specs.
type look struct {
	spec       corev1.PodSpec
	dead       bool
	containers []agent.Container
	failed     []string
	unstarted  bool
}

var _ = Describe("a plan", func() {
	always := corev1.ContainerRestartPolicyAlways
	plain := corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, HostNetwork: true, Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}}
	inits := *plain.DeepCopy()
	inits.InitContainers = []corev1.Container{{Name: "i"}, {Name: "s", RestartPolicy: &always}, {Name: "j"}}
	never, onFailure := *plain.DeepCopy(), *plain.DeepCopy()
	never.RestartPolicy, onFailure.RestartPolicy = corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure
	neverInits := *inits.DeepCopy()
	neverInits.RestartPolicy = corev1.RestartPolicyNever
	run, exit := agent.ContainerRunning, agent.ContainerExited

	DescribeTable("is what the containers need", func(c look, want string) {
		s := situation{
			pod:   &corev1.Pod{Spec: c.spec},
			state: agent.PodState{Sandboxes: []agent.Sandbox{{ID: "new", Ready: !c.dead}}, Containers: c.containers}, failed: map[string]probes.Change{},
			started: func(string) bool { return !c.unstarted },
		}
		for _, failed := range c.failed {
			s.failed[failed+"-id"] = probes.Change{Failed: probes.Liveness}
		}
		Expect(describe(decide(s))).To(Equal(want))
	},
		Entry("nothing yet", look{spec: plain, dead: true}, "sandbox"),
		Entry("a sandbox", look{spec: plain}, "start a,b"),
		Entry("one runs", look{spec: plain, containers: []agent.Container{in("a", run, 0)}}, "start b"),
		Entry("all run", look{spec: plain, containers: []agent.Container{in("a", run, 0), in("b", run, 0)}}, "wait"),
		Entry("one ended", look{spec: plain, containers: []agent.Container{in("a", exit, 0), in("b", run, 0)}}, "start a"),
		Entry("one ended, never", look{spec: never, containers: []agent.Container{in("a", exit, 1), in("b", run, 0)}}, "wait"),
		Entry("all ended, never", look{spec: never, containers: []agent.Container{in("a", exit, 1), in("b", exit, 0)}}, "done"),
		Entry("one failed, on failure", look{spec: onFailure, containers: []agent.Container{in("a", exit, 1), in("b", exit, 0)}}, "start a"),
		Entry("all well, on failure", look{spec: onFailure, containers: []agent.Container{in("a", exit, 0), in("b", exit, 0)}}, "done"),
		Entry("one unwell", look{spec: plain, containers: []agent.Container{in("a", run, 0), in("b", run, 0)}, failed: []string{"b"}}, "stop b; start b"),
		Entry("one unwell, never", look{spec: never, containers: []agent.Container{in("a", run, 0), in("b", run, 0)}, failed: []string{"b"}}, "stop b"),
		Entry("made, not started", look{spec: plain, containers: []agent.Container{in("a", agent.ContainerCreated, 0), in("b", run, 0)}}, "stop a; start a"),
		Entry("dead sandbox", look{spec: plain, dead: true, containers: []agent.Container{in("a", exit, 0), in("b", run, 0)}}, "sandbox"),
		Entry("dead sandbox, never", look{spec: never, dead: true, containers: []agent.Container{in("a", exit, 0), in("b", run, 0)}}, "done"),
		Entry("dead sandbox, all well", look{spec: onFailure, dead: true, containers: []agent.Container{in("a", exit, 0), in("b", exit, 0)}}, "done"),
		Entry("first init", look{spec: inits}, "start i"),
		Entry("first init runs", look{spec: inits, containers: []agent.Container{in("i", run, 0)}}, "wait"),
		Entry("first init through", look{spec: inits, containers: []agent.Container{in("i", exit, 0)}}, "start s"),
		Entry("first init failed", look{spec: inits, containers: []agent.Container{in("i", exit, 1)}}, "start i"),
		Entry("first init failed, never", look{spec: neverInits, containers: []agent.Container{in("i", exit, 1)}}, "done"),
		Entry("init failed, dead sandbox", look{spec: neverInits, dead: true, containers: []agent.Container{in("i", exit, 1)}}, "done"),
		Entry("sidecar runs, not started", look{spec: inits, containers: []agent.Container{in("i", exit, 0), in("s", run, 0)}, unstarted: true}, "wait"),
		Entry("sidecar started", look{spec: inits, containers: []agent.Container{in("i", exit, 0), in("s", run, 0)}}, "start j"),
		Entry("sidecar ended", look{spec: inits, containers: []agent.Container{in("i", exit, 0), in("s", exit, 0)}}, "start s"),
		Entry("all inits through", look{spec: inits, containers: []agent.Container{in("i", exit, 0), in("s", run, 0), in("j", exit, 0)}}, "start a,b"),
		Entry("sidecar ended after the start", look{spec: inits, containers: []agent.Container{in("s", exit, 1), in("a", run, 0), in("b", run, 0)}}, "start s"),
		Entry("sidecar goes on, apps are over", look{spec: neverInits, containers: []agent.Container{in("s", run, 0), in("a", exit, 0), in("b", exit, 0)}}, "done"),
		Entry("sidecar ended, apps are over", look{spec: neverInits, containers: []agent.Container{in("s", exit, 0), in("a", exit, 0), in("b", exit, 0)}}, "done"),
		Entry("inits forgotten, apps have begun", look{spec: inits, containers: []agent.Container{in("s", run, 0), in("a", run, 0), in("b", run, 0)}}, "wait"),
	)
})

func describe(p plan) string {
	text := ""
	add := func(word string, names []string) {
		if len(names) == 0 {
			return
		}
		if text != "" {
			text += "; "
		}
		text += word + " " + names[0]
		for _, name := range names[1:] {
			text += "," + name
		}
	}
	if p.sandbox {
		return "sandbox"
	}
	if p.done {
		return "done"
	}
	var stops, starts []string
	for _, stop := range p.stop {
		stops = append(stops, stop.container.Name)
	}
	for _, start := range p.start {
		starts = append(starts, start.Name)
	}
	add("stop", stops)
	add("start", starts)
	if text == "" {
		return "wait"
	}
	return text
}
