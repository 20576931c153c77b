package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/kubernetes/pkg/kubelet/client"
	"k8s.io/utils/lru"
)

const (
	// dialTimeout bounds how long a person waits to learn that a node is away.
	dialTimeout = 10 * time.Second
	// rememberedNodes bounds the names that are kept for messages about failed connections.
	rememberedNodes = 4096
)

// nodeConnections finds the agent of a node. All connections use the server's client certificate and
// verify the agent's against the cluster's authority.
type nodeConnections struct {
	upstream client.ConnectionInfoGetter
	// names maps addresses back to node names: what fails to connect knows its address only.
	names *lru.Cache
}

var _ client.ConnectionInfoGetter = &nodeConnections{}

func newNodeConnections(reader *reader, config Config) (*nodeConnections, error) {
	c := &nodeConnections{names: lru.New(rememberedNodes)}
	getter, err := client.NewNodeConnectionInfoGetter(
		client.NodeGetterFunc(func(ctx context.Context, name string, _ metav1.GetOptions) (*corev1.Node, error) {
			return c.node(ctx, reader, name)
		}),
		client.KubeletClientConfig{
			PreferredAddressTypes: []string{string(corev1.NodeInternalIP), string(corev1.NodeExternalIP)},
			TLSClientConfig: client.KubeletTLSConfig{
				CAFile: config.CAFile, CertFile: config.ClientCertFile, KeyFile: config.ClientKeyFile,
			},
			Lookup: func(egressselector.NetworkContext) (utilnet.DialFunc, error) { return c.dial, nil },
		})
	c.upstream = getter
	return c, err
}

// node reads a node and makes sure that it says where its agent listens.
func (c *nodeConnections) node(ctx context.Context, reader *reader, name string) (*corev1.Node, error) {
	node, err := reader.node(ctx, name)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("node %q does not exist", name)
	}
	if err == nil && node.Status.DaemonEndpoints.KubeletEndpoint.Port == 0 {
		return nil, fmt.Errorf("node %q has not reported where its agent listens", name)
	}
	return node, err
}

// GetConnectionInfo says how to reach the agent of node.
func (c *nodeConnections) GetConnectionInfo(ctx context.Context, node types.NodeName) (*client.ConnectionInfo, error) {
	info, err := c.upstream.GetConnectionInfo(ctx, node)
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("finding the agent of node %q: %w", node, err))
	}
	port, err := strconv.ParseUint(info.Port, 10, 16)
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("finding the agent of node %q: port %q: %w", node, info.Port, err))
	}
	c.names.Add(net.JoinHostPort(info.Hostname, strconv.FormatUint(port, 10)), string(node))
	return info, nil
}

// dial connects to an agent. Its errors name node and pod: they are what the user sees when a node is away.
func (c *nodeConnections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, network, address)
	if err == nil {
		return conn, nil
	}
	name, _ := c.names.Get(address)
	return nil, fmt.Errorf("connecting to the agent of node %q%s: %w (see `kubectl get nodes.core.drayage.dev`)", name, podOf(ctx), err)
}

// unavailable makes err a status that clients understand as "later, perhaps", unless it holds a status.
func unavailable(ctx context.Context, err error) error {
	if status := (*apierrors.StatusError)(nil); errors.As(err, &status) {
		return status
	}
	return apierrors.NewServiceUnavailable(err.Error() + podOf(ctx))
}

// podOf names the pod of the request that ctx belongs to, as the end of a message.
func podOf(ctx context.Context) string {
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	if !ok || info.Name == "" {
		return ""
	}
	return fmt.Sprintf(" for pod %s/%s", info.Namespace, info.Name)
}
