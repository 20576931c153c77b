package cri

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"drayage.dev/agent"
)

type sandboxEntry struct {
	state   runtimeapi.PodSandboxState
	sandbox agent.Sandbox
}

type containerEntry struct {
	state     runtimeapi.ContainerState
	container agent.Container
}

// killedExitCode is what a process that got SIGKILL exits with.
const killedExitCode = 137

// List implements agent.PodRuntime.
func (r *Runtime) List(ctx context.Context, pods ...types.UID) ([]agent.PodState, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	wanted := pods
	if len(pods) == 0 {
		wanted = []types.UID{""}
	}
	var states []agent.PodState
	for _, uid := range wanted {
		sandboxes, err := r.podSandboxes(ctx, uid)
		if err != nil {
			return nil, err
		}
		containers, err := r.podContainers(ctx, uid)
		if err != nil {
			return nil, err
		}
		some, err := r.assemble(ctx, sandboxes, containers)
		if err != nil {
			return nil, err
		}
		states = append(states, some...)
		if uid == "" {
			r.prune(sandboxes, containers)
		}
	}
	return states, nil
}

// assemble groups sandboxes and containers by pod. What vanishes while it looks is left out.
func (r *Runtime) assemble(ctx context.Context, sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) ([]agent.PodState, error) {
	byUID := map[types.UID]*agent.PodState{}
	var order []types.UID
	state := func(labels map[string]string) *agent.PodState {
		uid := types.UID(labels[kubelettypes.KubernetesPodUIDLabel])
		if byUID[uid] == nil {
			byUID[uid] = &agent.PodState{
				UID: uid, Namespace: labels[kubelettypes.KubernetesPodNamespaceLabel], Name: labels[kubelettypes.KubernetesPodNameLabel],
			}
			order = append(order, uid)
		}
		return byUID[uid]
	}
	for _, listed := range sandboxes {
		sandbox, err := r.sandbox(ctx, listed.Id, listed.State)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pod := state(listed.Labels)
		pod.Labels, pod.Annotations = listed.Labels, listed.Annotations
		pod.Sandboxes = append(pod.Sandboxes, sandbox)
	}
	for _, listed := range containers {
		container, err := r.container(ctx, listed)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pod := state(listed.Labels)
		pod.Containers = append(pod.Containers, container)
	}
	var states []agent.PodState
	for _, uid := range order {
		pod := byUID[uid]
		slices.SortFunc(pod.Sandboxes, func(a, b agent.Sandbox) int {
			return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Attempt, a.Attempt))
		})
		slices.SortFunc(pod.Containers, func(a, b agent.Container) int {
			return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Attempt, a.Attempt))
		})
		states = append(states, *pod)
	}
	return states, nil
}

// sandbox returns the details of a sandbox, asking the runtime only when its state is new to us.
func (r *Runtime) sandbox(ctx context.Context, id string, state runtimeapi.PodSandboxState) (agent.Sandbox, error) {
	r.mu.Lock()
	entry, known := r.sandboxes[id]
	r.mu.Unlock()
	if known && entry.state == state {
		return entry.sandbox, nil
	}
	// Verbose, because only there the network namespace is told.
	answer, err := r.client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return agent.Sandbox{}, err
	}
	status := answer.Status
	sandbox := agent.Sandbox{
		ID: id, Attempt: status.Metadata.GetAttempt(), Ready: status.State == runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Unix(0, status.CreatedAt), NetNS: netNS(answer.Info["info"]),
	}
	if network := status.Network; network != nil {
		sandbox.Addresses = appendAddress(sandbox.Addresses, network.Ip)
		for _, additional := range network.AdditionalIps {
			sandbox.Addresses = appendAddress(sandbox.Addresses, additional.Ip)
		}
	}
	r.mu.Lock()
	r.sandboxes[id] = sandboxEntry{state: status.State, sandbox: sandbox}
	r.mu.Unlock()
	return sandbox, nil
}

func appendAddress(addresses []netip.Addr, text string) []netip.Addr {
	if address, err := netip.ParseAddr(text); err == nil {
		return append(addresses, address)
	}
	return addresses
}

// netNS finds the network namespace in containerd's verbose status; empty where there is none.
func netNS(info string) string {
	var details struct {
		RuntimeSpec struct {
			Linux struct {
				Namespaces []struct{ Type, Path string }
			}
		}
	}
	if json.Unmarshal([]byte(info), &details) != nil {
		return ""
	}
	for _, namespace := range details.RuntimeSpec.Linux.Namespaces {
		if namespace.Type == "network" {
			return namespace.Path
		}
	}
	return ""
}

// container returns the details of a container, asking the runtime only when its state is new to us.
func (r *Runtime) container(ctx context.Context, listed *runtimeapi.Container) (agent.Container, error) {
	r.mu.Lock()
	entry, known := r.containers[listed.Id]
	r.mu.Unlock()
	if known && entry.state == listed.State {
		return entry.container, nil
	}
	answer, err := r.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: listed.Id})
	if err != nil {
		return agent.Container{}, err
	}
	status := answer.Status
	container := agent.Container{
		ID: listed.Id, Name: status.Metadata.GetName(), Attempt: status.Metadata.GetAttempt(), SandboxID: listed.PodSandboxId,
		CreatedAt: at(status.CreatedAt), StartedAt: at(status.StartedAt), FinishedAt: at(status.FinishedAt),
		ExitCode: status.ExitCode, Reason: status.Reason, Message: status.Message,
		Image: status.Image.GetImage(), ImageRef: status.ImageRef, ImageID: listed.ImageId,
		LogPath: status.LogPath, Annotations: status.Annotations, User: status.User,
	}
	switch status.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		container.Phase = agent.ContainerCreated
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		container.Phase = agent.ContainerRunning
		// A command that an exec ran and that was killed for memory marks the running container.
		container.Reason = ""
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		container.Phase = agent.ContainerExited
		if container.Reason == "OOMKilled" && container.ExitCode != killedExitCode {
			container.Reason = "Error"
		}
	}
	r.mu.Lock()
	r.containers[listed.Id] = containerEntry{state: status.State, container: container}
	r.mu.Unlock()
	return container, nil
}

// at converts the runtime's nanoseconds, zero meaning never.
func at(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

func (r *Runtime) forget(sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sandbox := range sandboxes {
		delete(r.sandboxes, sandbox.Id)
	}
	for _, container := range containers {
		delete(r.containers, container.Id)
	}
}

// prune drops from the cache what a full list did not show.
func (r *Runtime) prune(sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) {
	live := map[string]bool{}
	for _, sandbox := range sandboxes {
		live[sandbox.Id] = true
	}
	for _, container := range containers {
		live[container.Id] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.sandboxes {
		if !live[id] {
			delete(r.sandboxes, id)
		}
	}
	for id := range r.containers {
		if !live[id] {
			delete(r.containers, id)
		}
	}
}

// Container returns one container by id, for those who know no pod.
func (r *Runtime) Container(ctx context.Context, id string) (agent.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := r.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}})
	if err != nil {
		return agent.Container{}, plain(err)
	}
	if len(answer.Containers) == 0 {
		return agent.Container{}, fmt.Errorf("container %s is unknown", id)
	}
	return r.container(ctx, answer.Containers[0])
}
