package diagnostics

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // the format json
)

// Logging are the flags of a process's log: Kubernetes' --logging-format, -v and their companions.
type Logging struct {
	config *logsapi.LoggingConfiguration
	flags  *pflag.FlagSet
}

// AddFlags adds the flags.
func (l *Logging) AddFlags(flags *pflag.FlagSet) {
	l.config, l.flags = logsapi.NewLoggingConfiguration(), pflag.NewFlagSet("logging", pflag.ContinueOnError)
	logsapi.AddFlags(l.config, l.flags)
	flags.AddFlagSet(l.flags)
}

// Apply makes klog, which everything logs through, write what the flags say. A process calls it once, before
// anything logs.
func (l *Logging) Apply() error { return logsapi.ValidateAndApply(l.config, nil) }

// Run applies the flags and calls run with a context that ends when the process is asked to end, by SIGTERM or an
// interrupt. It is the whole of what a long-running command does with its flags.
func (l *Logging) Run(ctx context.Context, run func(context.Context) error) error {
	if err := l.Apply(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx)
}

// Arguments are those of the flags that were set, for a process that is to log alike.
func (l *Logging) Arguments() []string {
	var arguments []string
	l.flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed {
			arguments = append(arguments, "--"+flag.Name+"="+flag.Value.String())
		}
	})
	return arguments
}
