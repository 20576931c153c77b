package app

import (
	"context"
	"errors"

	"drayage.dev/agent/metrics"
	"drayage.dev/internal/diagnostics"
)

// startDiagnostics shows how the agent is and what it counts, from its first moment on.
func (a *agent) startDiagnostics(ctx context.Context, cancel context.CancelCauseFunc) error {
	metrics.Register(a.NodeName)
	show := a.Diagnostics
	show.HealthAddress, show.MetricsAddress = a.ListenAddress, a.ListenAddress
	show.RESTConfig, show.ClientCAFile, show.GetCertificate = a.rest, a.ClientCAFile, a.certificate()
	show.Ready, show.Log = a.ready, a.log.WithName("diagnostics")
	a.part(ctx, cancel, "showing health and metrics", func(ctx context.Context) error { return diagnostics.Run(ctx, show) })
	return nil
}

// ready says whether the agent runs pods. Whether the node is Ready is another question, which its Node answers:
// one that is not, for want of pod addresses, has an agent that is.
func (a *agent) ready(ctx context.Context) error {
	if !a.started.Load() {
		return errors.New("the agent is still starting")
	}
	return a.runtimeReady(ctx)
}
