package apiserver

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	restclient "k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/apiserver/applied"
)

// relay passes what nodes report to ledger on to the other replicas, until ctx ends.
func relay(ctx context.Context, ledger *applied.Ledger, follow func(context.Context, func(map[string]*restclient.Config)) error) error {
	log := klog.FromContext(ctx).WithName("replicas")
	relay := applied.NewRelay(ledger, log)
	return follow(ctx, func(replicas map[string]*restclient.Config) {
		sends := map[string]applied.Send{}
		for name, config := range replicas {
			send, err := sendTo(config)
			if err != nil {
				log.Error(err, "Could not make a client for another replica", "replica", name)
				continue
			}
			sends[name] = send
		}
		relay.Set(ctx, sends)
	})
}

// sendTo returns how reports go to the replica that config reaches.
func sendTo(config *restclient.Config) (applied.Send, error) {
	config = restclient.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &subresourcesv1alpha1.GroupVersion
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	config.NegotiatedSerializer = serializer.WithoutConversionCodecFactory{CodecFactory: legacyscheme.Codecs}
	config.QPS, config.RateLimiter = -1, nil
	client, err := restclient.RESTClientFor(config)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, reports map[string]subresourcesv1alpha1.NodeReport) error {
		body, err := json.Marshal(subresourcesv1alpha1.NodeReports{Nodes: reports})
		if err != nil {
			return err
		}
		err = client.Post().Resource(subresourcesv1alpha1.NodesResource).Name(subresourcesv1alpha1.AllNodes).
			SubResource(subresourcesv1alpha1.AppliedSubresource).MaxRetries(0).Body(body).Do(ctx).Error()
		if err != nil {
			return fmt.Errorf("passing %d reports on: %w", len(reports), err)
		}
		return nil
	}, nil
}
