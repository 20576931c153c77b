package scheduler

import (
	_ "embed"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/rest"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	configscheme "k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/validation"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
)

// Config is what a scheduler needs to run.
type Config struct {
	// RESTConfig reaches the API server. Its rate limits are honoured when set; otherwise there are
	// none on this side, since the server's priority levels do that work.
	RESTConfig *rest.Config

	// Configuration holds profiles, extenders, parallelism and backoffs. Nil means upstream's defaults with
	// the profiles of profiles.yaml: upstream's default one, and "prompt", "balanced" and "packed" beside it.
	// Its leader election and client connection are the caller's business and not read here.
	Configuration *schedulerconfig.KubeSchedulerConfiguration

	// AgentPatience is how long the agent of a pod's node may take to report the pod as scheduled before the
	// scheduler does. 10 seconds if zero.
	AgentPatience time.Duration

	// OneByOne turns the fast path off: upstream evaluates nodes for every pod anew.
	OneByOne bool
}

// profiles is the configuration of a scheduler that is given none.
//
//go:embed profiles.yaml
var profiles []byte

// Option extends a scheduler beyond its Config.
type Option func(frameworkruntime.Registry) error

// WithPlugin makes an out-of-tree plugin available under name to the profiles of the configuration.
// It fails when the name is taken.
func WithPlugin(name string, factory frameworkruntime.PluginFactory) Option {
	return func(registry frameworkruntime.Registry) error { return registry.Register(name, factory) }
}

// LoadConfiguration reads a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) with upstream's
// defaults and validation. Unknown fields are errors.
func LoadConfiguration(file string) (*schedulerconfig.KubeSchedulerConfiguration, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the scheduler configuration: %w", err)
	}
	return decodeConfiguration(data, file)
}

func decodeConfiguration(data []byte, file string) (*schedulerconfig.KubeSchedulerConfiguration, error) {
	object, gvk, err := configscheme.Codecs.UniversalDecoder().Decode(data, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("decoding the scheduler configuration %s: %w", file, err)
	}
	configuration, ok := object.(*schedulerconfig.KubeSchedulerConfiguration)
	if !ok {
		return nil, fmt.Errorf("decoding the scheduler configuration %s: it is a %s, not a KubeSchedulerConfiguration", file, gvk.Kind)
	}
	// Conversion drops the version, but plugins' argument decoders ask for it.
	configuration.APIVersion = gvk.GroupVersion().String()
	if err := validation.ValidateKubeSchedulerConfiguration(configuration); err != nil {
		return nil, fmt.Errorf("validating the scheduler configuration %s: %w", file, err)
	}
	return configuration, nil
}

// withDefaults completes a Config without changing what the caller passed.
func (c Config) withDefaults() (Config, error) {
	if c.RESTConfig == nil {
		return c, fmt.Errorf("starting the scheduler: no API server is configured")
	}
	if c.AgentPatience < 0 {
		return c, fmt.Errorf("starting the scheduler: agents cannot have %s to report a pod as scheduled: give them 0 (%s) or more", c.AgentPatience, DefaultAgentPatience)
	}
	c.RESTConfig = rest.CopyConfig(c.RESTConfig)
	if c.RESTConfig.QPS == 0 && c.RESTConfig.RateLimiter == nil {
		c.RESTConfig.QPS = -1
	}
	if c.AgentPatience == 0 {
		c.AgentPatience = DefaultAgentPatience
	}
	if c.Configuration == nil {
		configuration, err := decodeConfiguration(profiles, "profiles.yaml")
		if err != nil {
			return c, err
		}
		c.Configuration = configuration
	}
	return c, nil
}
