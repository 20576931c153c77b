// Package logging decides what the long-running commands of `dray` write to standard error: what Drayage's own
// components have to say, and of Kubernetes' packages, which narrate their start line by line, errors only.
package logging

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"go.uber.org/zap/zapcore"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/component-base/logs/json"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// Options are the flags.
type Options struct {
	// Verbosity is how much more is written: from 1 on, Kubernetes' packages write their information too.
	Verbosity int
	// Format is Text or JSON.
	Format string
}

// The formats, by Kubernetes' names.
const (
	Text = "text"
	JSON = "json"
)

// AddFlags adds --v and --logging-format.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Format, "logging-format", Text, "how log lines are written: "+Text+" or "+JSON)
	flags.IntVarP(&o.Verbosity, "v", "v", o.Verbosity, "log verbosity: 0 for Drayage's own log and errors, 1 for all that Kubernetes' packages tell, up to 9")
}

// Arguments are those by which another process of Drayage, such as dray-dns, logs alike.
func (o Options) Arguments() []string {
	arguments := []string{"--logging-format=" + o.Format}
	if o.Verbosity > 0 {
		arguments = append(arguments, "--v="+strconv.Itoa(o.Verbosity))
	}
	return arguments
}

// Setup applies the options to this process and returns a context with the logger of Drayage's own
// components. It is called once, before anything logs.
func Setup(ctx context.Context, options Options) (context.Context, error) {
	switch options.Format {
	case Text:
	case JSON:
		return setupJSON(ctx, options), nil
	default:
		return nil, fmt.Errorf("checking --logging-format: %q is neither %s nor %s", options.Format, Text, JSON)
	}
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	set := map[string]string{"v": strconv.Itoa(options.Verbosity)}
	if options.Verbosity == 0 {
		set["logtostderr"], set["stderrthreshold"] = "false", "FATAL"
		klog.SetOutput(io.Discard)
		klog.SetOutputBySeverity("ERROR", telling{os.Stderr})
	}
	for name, value := range set {
		// The flags are klog's own, so setting them cannot fail.
		_ = flags.Set(name, value)
	}
	own := textlogger.NewLogger(textlogger.NewConfig(textlogger.Verbosity(options.Verbosity)))
	return klog.NewContext(ctx, own), nil
}

// setupJSON is Setup for lines that programs read.
func setupJSON(ctx context.Context, options Options) context.Context {
	own, control := json.NewJSONLogger(logsapi.VerbosityLevel(options.Verbosity), zapcore.Lock(os.Stderr), nil, nil)
	upstream := own
	if options.Verbosity == 0 {
		upstream = logr.New(errorsOnly{own.WithCallDepth(1).GetSink()})
	}
	klog.SetLoggerWithOptions(upstream, klog.ContextualLogger(true), klog.FlushLogger(control.Flush))
	return klog.NewContext(ctx, own)
}

// errorsOnly drops what is no error, and what telling drops.
type errorsOnly struct{ logr.LogSink }

func (errorsOnly) Enabled(int) bool { return false }

func (s errorsOnly) Error(err error, message string, keysAndValues ...any) {
	if !harmless([]byte(message)) && !errors.Is(err, context.Canceled) {
		s.LogSink.Error(err, message, keysAndValues...)
	}
}

func (s errorsOnly) WithValues(keysAndValues ...any) logr.LogSink {
	return errorsOnly{s.LogSink.WithValues(keysAndValues...)}
}

func (s errorsOnly) WithName(name string) logr.LogSink { return errorsOnly{s.LogSink.WithName(name)} }

// telling drops lines that every first start or every stop writes as errors and that nobody can do anything
// about.
type telling struct{ out io.Writer }

func (t telling) Write(line []byte) (int, error) {
	if harmless(line) {
		return len(line), nil
	}
	return t.out.Write(line)
}

func harmless(line []byte) bool {
	return slices.ContainsFunc([]string{"The manifest file is empty", "Failed to ensure lease exists, will retry", "context canceled"},
		func(text string) bool { return bytes.Contains(line, []byte(text)) })
}
