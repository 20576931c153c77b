package net

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	drayage "drayage.dev/internal/scheme"
)

// atOnce is how many nodes are asked at once.
const atOnce = 16

type finding = subresourcesv1alpha1.NetworkFinding

// object names a pod, node or service; the zero value names nothing.
type object struct{ kind, namespace, name string }

const (
	kindPod     = "pod"
	kindNode    = "node"
	kindService = "service"
)

// kinds are the names that people give to what can be checked.
var kinds = map[string]string{
	"pod": kindPod, "pods": kindPod, "po": kindPod, "dpo": kindPod,
	"node": kindNode, "nodes": kindNode, "no": kindNode, "dno": kindNode,
	"service": kindService, "services": kindService, "svc": kindService, "dsvc": kindService,
}

// String is for people, as in "service shop/web".
func (o object) String() string {
	if o.namespace == "" {
		return o.kind + " " + o.name
	}
	return o.kind + " " + o.namespace + "/" + o.name
}

// parse reads KIND/NAME or KIND/NAMESPACE/NAME; empty text is the zero object.
func parse(flag, text, namespace string, allowed ...string) (object, error) {
	if text == "" {
		return object{}, nil
	}
	parts := strings.Split(text, "/")
	kind := kinds[strings.ToLower(parts[0])]
	if !slices.Contains(allowed, kind) || len(parts) < 2 || len(parts) > 3 || kind == kindNode && len(parts) == 3 || slices.Contains(parts, "") {
		return object{}, fmt.Errorf("reading %s %q: want %s/NAME", flag, text, strings.Join(allowed, "/NAME or "))
	}
	o := object{kind: kind, name: parts[len(parts)-1]}
	if kind != kindNode {
		o.namespace = namespace
		if len(parts) == 3 {
			o.namespace = parts[1]
		}
	}
	return o, nil
}

// check is one run of the command.
type check struct {
	api      client.Client
	rest     rest.Interface
	from, to object

	findings []finding
	nodes    map[string]*dcorev1.Node
}

func newCheckOf(config *rest.Config, namespace, from, to string) (*check, error) {
	c := &check{nodes: map[string]*dcorev1.Node{}}
	var err error
	if c.from, err = parse("--from", from, namespace, kindPod, kindNode); err != nil {
		return nil, err
	}
	if c.to, err = parse("--to", to, namespace, kindPod, kindNode, kindService); err != nil {
		return nil, err
	}
	if c.api, err = client.New(config, client.Options{Scheme: drayage.New()}); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &subresourcesv1alpha1.GroupVersion
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	config.NegotiatedSerializer = serializer.WithoutConversionCodecFactory{CodecFactory: scheme.Codecs}
	c.rest, err = rest.RESTClientFor(config)
	return c, err
}

// title says what is looked at.
func (c *check) title() string {
	from, to := "every node", "every other node"
	if c.from.kind != "" {
		from = c.from.String()
	}
	if c.to.kind != "" {
		to = c.to.String()
	}
	return fmt.Sprintf("From %s to %s", from, to)
}

func (c *check) ok(format string, arguments ...any) {
	c.findings = append(c.findings, finding{Message: fmt.Sprintf(format, arguments...)})
}

func (c *check) broken(format string, arguments ...any) {
	message := fmt.Sprintf(format, arguments...)
	c.findings = append(c.findings, finding{Broken: true, Message: strings.ToUpper(message[:1]) + message[1:]})
}

// run looks at what the API says, then has nodes look at the rest. An error says that it could not look.
func (c *check) run(ctx context.Context) ([]finding, error) {
	var list dcorev1.NodeList
	if err := c.api.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	for i := range list.Items {
		c.nodes[list.Items[i].Name] = &list.Items[i]
	}
	questions, err := c.plan(ctx)
	if err != nil {
		return nil, err
	}
	c.ask(ctx, questions)
	return c.findings, nil
}

// plan looks at the API's objects and says what which node is to be asked.
func (c *check) plan(ctx context.Context) (questions map[string]*subresourcesv1alpha1.NetworkCheck, err error) {
	questions = map[string]*subresourcesv1alpha1.NetworkCheck{}
	sources, from, err := c.sources(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range sources {
		questions[name] = &subresourcesv1alpha1.NetworkCheck{From: from}
	}
	// back has the target's node look at the way back, unless it is asked anyway.
	back := func(target string) {
		if questions[target] != nil || !c.ready(target) {
			return
		}
		question := &subresourcesv1alpha1.NetworkCheck{}
		for _, name := range sources {
			question.Nodes = append(question.Nodes, c.checked(name))
		}
		questions[target] = question
	}
	switch c.to.kind {
	case kindPod:
		pod, err := c.pod(ctx, c.to)
		if err != nil || pod == nil {
			return questions, err
		}
		for _, name := range sources {
			questions[name].Pods = append(questions[name].Pods, *pod)
			questions[name].Nodes = append(questions[name].Nodes, c.others(name, pod.Node)...)
		}
		back(pod.Node)
	case kindNode:
		if err := c.node(c.to.name); err != nil {
			return nil, err
		}
		for _, name := range sources {
			questions[name].Nodes = c.others(name, c.to.name)
		}
		back(c.to.name)
	case kindService:
		service, err := c.service(ctx, c.to)
		if err != nil || service == nil {
			return questions, err
		}
		for _, name := range sources {
			questions[name].Services = append(questions[name].Services, *service)
		}
	default:
		for _, name := range sources {
			for other := range c.nodes {
				questions[name].Nodes = append(questions[name].Nodes, c.others(name, other)...)
			}
		}
	}
	return questions, nil
}

// sources are the nodes that the ways begin on, and the pod if they begin in one.
func (c *check) sources(ctx context.Context) (nodes []string, from *subresourcesv1alpha1.CheckedPod, err error) {
	switch c.from.kind {
	case kindPod:
		pod, err := c.pod(ctx, c.from)
		if err != nil || pod == nil || !c.ready(pod.Node) {
			return nil, nil, err
		}
		if pod.UID == "" {
			return []string{pod.Node}, nil, nil // it has the node's network
		}
		return []string{pod.Node}, pod, nil
	case kindNode:
		if err := c.node(c.from.name); err != nil {
			return nil, nil, err
		}
		if c.ready(c.from.name) {
			nodes = append(nodes, c.from.name)
		}
		return nodes, nil, nil
	}
	for name := range c.nodes {
		if err := c.node(name); err != nil {
			return nil, nil, err
		}
		if c.ready(name) {
			nodes = append(nodes, name)
		}
	}
	slices.Sort(nodes)
	return nodes, nil, nil
}

// others is the node, unless it is the one that is asked.
func (c *check) others(asked, name string) []subresourcesv1alpha1.CheckedNode {
	if asked == name || c.nodes[name] == nil {
		return nil
	}
	return []subresourcesv1alpha1.CheckedNode{c.checked(name)}
}

// ask has the nodes answer, several at once, and enters what they have found.
func (c *check) ask(ctx context.Context, questions map[string]*subresourcesv1alpha1.NetworkCheck) {
	var mu sync.Mutex
	reports := map[string][]finding{}
	var group errgroup.Group
	group.SetLimit(atOnce)
	for node, question := range questions {
		group.Go(func() error {
			report, err := c.askOne(ctx, node, question)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				report.Findings = []finding{{Broken: true, Message: fmt.Sprintf("The agent of node %s cannot be asked: %v.", node, err)}}
			}
			reports[node] = report.Findings
			return nil
		})
	}
	_ = group.Wait()
	var names []string
	for name := range reports {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c.findings = append(c.findings, reports[name]...)
	}
}

func (c *check) askOne(ctx context.Context, node string, question *subresourcesv1alpha1.NetworkCheck) (report subresourcesv1alpha1.NetworkCheckReport, err error) {
	body, err := json.Marshal(question)
	if err != nil {
		return report, err
	}
	result := c.rest.Post().Resource(subresourcesv1alpha1.NodesResource).Name(node).
		SubResource(subresourcesv1alpha1.CheckSubresource).Body(body).Do(ctx)
	// The error tells what the server has said; that of Raw does not.
	if err := result.Error(); err != nil {
		return report, err
	}
	answer, err := result.Raw()
	if err != nil {
		return report, err
	}
	return report, json.Unmarshal(answer, &report)
}
