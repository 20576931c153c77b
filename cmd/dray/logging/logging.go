// Package logging decides what the long-running commands of `dray` write to standard error: what Drayage's own
// components have to say, and of Kubernetes' packages, which narrate their start line by line, errors only.
package logging

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"strconv"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// Options are the flags.
type Options struct {
	// Verbosity is how much more is written: from 1 on, Kubernetes' packages write their information too.
	Verbosity int
}

// AddFlags adds --v.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.IntVarP(&o.Verbosity, "v", "v", o.Verbosity, "log verbosity: 0 for Drayage's own log and errors, 1 for all that Kubernetes' packages tell, up to 9")
}

// Setup applies the options to this process and returns a context with the logger of Drayage's own
// components. It is called once, before anything logs.
func Setup(ctx context.Context, options Options) context.Context {
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
	return klog.NewContext(ctx, own)
}

// telling drops lines that every first start or every stop writes as errors and that nobody can do anything
// about.
type telling struct{ out io.Writer }

func (t telling) Write(line []byte) (int, error) {
	for _, harmless := range []string{"The manifest file is empty", "Failed to ensure lease exists, will retry", "context canceled"} {
		if bytes.Contains(line, []byte(harmless)) {
			return len(line), nil
		}
	}
	return t.out.Write(line)
}
