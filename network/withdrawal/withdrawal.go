package withdrawal

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

const (
	// coalesce is the least time between two reports: what happens meanwhile shares one.
	coalesce = 5 * time.Millisecond
	// refresh is how often a revision is reported again although it has not changed: the control plane
	// forgets with a restart. Whatever has a pod withdrawn changes it anyway.
	refresh = 30 * time.Second
	// A report that failed is tried again after minRetry, then twice as long each time up to maxRetry.
	minRetry = 100 * time.Millisecond
	maxRetry = 5 * time.Second
	// settle is how long a pod goes on after the last node has withdrawn it: connections that were begun
	// before wait in its kernel for the process to accept them, and a process that closes its listener
	// has the kernel reset those. On a busy machine that takes it up to some 200 ms.
	settle = 500 * time.Millisecond
	// travel is what an answer of the control plane may take on its way.
	travel = 100 * time.Millisecond
	// askAgain is how long an unanswered question waits to be asked again.
	askAgain = 50 * time.Millisecond
	// reportTimeout bounds one report.
	reportTimeout = 5 * time.Second
)

// Proxy knows this node's kernel. The service proxy satisfies it.
type Proxy interface {
	// Await returns when this node sends the pod no new connections, and a revision of the EndpointSlices
	// that has every node do so; 0 when no node ever did.
	Await(ctx context.Context, pod types.UID) (revision uint64, err error)
	// Applied returns the revision that the kernel has, and a channel that is closed when it has a higher one.
	Applied() (revision uint64, news <-chan struct{})
}

// Config says whose kernel it is.
type Config struct {
	// Node is this node's name.
	Node string
	// RESTConfig reaches the control plane as the node.
	RESTConfig *rest.Config
	Proxy      Proxy
	Log        logr.Logger
}

// Client reports and asks. It satisfies the agent's Withdrawal.
type Client struct {
	config Config
	rest   rest.Interface
}

// New returns a Client that reports nothing until Run.
func New(config Config) (*Client, error) {
	rc := rest.CopyConfig(config.RESTConfig)
	rc.APIPath, rc.GroupVersion = "/apis", &subresourcesv1alpha1.GroupVersion
	rc.ContentType, rc.AcceptContentTypes = "application/json", "application/json"
	rc.NegotiatedSerializer = serializer.WithoutConversionCodecFactory{CodecFactory: scheme.Codecs}
	// Reports are coalesced, and there are as many questions as pods that end.
	rc.QPS, rc.RateLimiter = -1, nil
	client, err := rest.RESTClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("making the client of acknowledgements: %w", err)
	}
	return &Client{config: config, rest: client}, nil
}

// Run reports what the kernel has until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	retry, failed := time.Duration(0), false
	for {
		revision, news := c.config.Proxy.Applied()
		err := c.report(ctx, revision)
		// Nodes that were started together do not report together.
		again := refresh/2 + rand.N(refresh)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if !failed {
				c.config.Log.Error(err, "Could not report the applied endpoints, will try again")
			}
			failed, news, retry = true, nil, min(max(minRetry, 2*retry), maxRetry)
			again = retry
		default:
			failed, retry = false, 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		case <-news:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(coalesce):
			}
		}
	}
}

func (c *Client) report(ctx context.Context, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	body, err := json.Marshal(subresourcesv1alpha1.AppliedRevision{Revision: revision})
	if err != nil {
		return err
	}
	err = c.rest.Post().Resource(subresourcesv1alpha1.NodesResource).Name(c.config.Node).
		SubResource(subresourcesv1alpha1.AppliedSubresource).MaxRetries(0).Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("reporting revision %d: %w", revision, err)
	}
	return nil
}

// Await returns nil when no Ready node sends the pod new connections any more, and those that were under
// way have had time to be accepted. While the control plane does not answer, or says that a node is behind,
// it goes on asking until ctx ends; then the error says why. The caller bounds the wait.
func (c *Client) Await(ctx context.Context, pod types.UID) error {
	revision, err := c.config.Proxy.Await(ctx, pod)
	if err != nil || revision == 0 {
		return err
	}
	for {
		// An answer says more than that there was no time for another one.
		if answer := c.ask(ctx, revision); answer == nil || err == nil || ctx.Err() == nil {
			err = answer
		}
		pause := settle
		if err != nil {
			pause = askAgain
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("asking whether all nodes have revision %d of the endpoints: %w", revision, err)
			}
			return ctx.Err()
		case <-time.After(pause):
		}
		if err == nil {
			return nil
		}
	}
}

func (c *Client) ask(ctx context.Context, revision uint64) error {
	request := c.rest.Get().Resource(subresourcesv1alpha1.NodesResource).Name(c.config.Node).
		SubResource(subresourcesv1alpha1.AppliedSubresource).MaxRetries(0).
		Param(subresourcesv1alpha1.RevisionParameter, strconv.FormatUint(revision, 10))
	if deadline, bounded := ctx.Deadline(); bounded {
		// The answer that names who is behind has to arrive before the time is over.
		request.Param(subresourcesv1alpha1.WaitParameter, max(0, time.Until(deadline)-travel).String())
	}
	return request.Do(ctx).Error()
}
