package convert

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Note is what a person should know about one object.
type Note struct {
	// File is the input, "standard input" for "-".
	File string
	// Kind and Name are the object's, Name with its namespace in front where it has one.
	Kind, Name string
	// Text is what becomes of the object, or what is wrong with it.
	Text string
}

func (n Note) String() string {
	return fmt.Sprintf("%s: %s %s: %s", n.File, n.Kind, n.Name, n.Text)
}

// result counts and collects what a conversion did.
type result struct {
	documents                     []*yaml.Node
	converted, unchanged, leftOut int
	// refused counts the objects that Drayage will not accept.
	refused int
	notes   []Note
}

// converter converts the documents of one file.
type converter struct {
	catalog *catalog
	file    string
	result  *result
}

// read converts all documents of r.
func (c *converter) read(r io.Reader) error {
	decoder := yaml.NewDecoder(r)
	for {
		document := &yaml.Node{}
		switch err := decoder.Decode(document); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading %s: %w", c.file, err)
		}
		if len(document.Content) == 0 || document.Content[0].Tag == "!!null" {
			continue
		}
		if c.object(document.Content[0]) {
			c.result.documents = append(c.result.documents, document)
		}
	}
}

// object converts one object in place and reports whether it stays.
func (c *converter) object(object *yaml.Node) bool {
	if object.Kind != yaml.MappingNode {
		c.leaveOut("object", "-", "not a Kubernetes object: it is no mapping")
		return false
	}
	apiVersion, kind := scalar(object, "apiVersion"), scalar(object, "kind")
	if items := value(object, "items"); items != nil && items.Kind == yaml.SequenceNode && strings.HasSuffix(kind, "List") {
		return c.list(object, items, apiVersion, kind)
	}
	verdict, text := c.catalog.judge(apiVersion, kind)
	switch verdict {
	case leftOut:
		c.leaveOut(kind, nameOf(object), text)
		return false
	case unchanged:
		if strings.HasPrefix(apiVersion, "rbac.authorization.k8s.io/") {
			c.rules(object)
		}
		c.result.unchanged++
	case converted:
		c.result.converted++
		c.check(object, apiVersion, kind)
		c.references(object)
	}
	return true
}

// list converts the items of a list; it stays when one of them does.
func (c *converter) list(object, items *yaml.Node, apiVersion, kind string) bool {
	element := strings.TrimSuffix(kind, "List")
	if element != "" {
		// A typed list: its items may leave out what the list says for all.
		verdict, text := c.catalog.judge(apiVersion, element)
		if verdict == leftOut {
			c.leaveOut(kind, "-", text)
			return false
		}
		for _, item := range items.Content {
			if item.Kind == yaml.MappingNode && scalar(item, "kind") == "" {
				item.Content = append([]*yaml.Node{
					plain("apiVersion"), plain(apiVersion), plain("kind"), plain(element),
				}, item.Content...)
			}
		}
		if verdict == converted {
			value(object, "apiVersion").SetString(text)
		}
	}
	items.Content = slices.DeleteFunc(items.Content, func(item *yaml.Node) bool { return !c.object(item) })
	return len(items.Content) > 0
}

func (c *converter) leaveOut(kind, name, text string) {
	c.result.leftOut++
	c.note(kind, name, text)
}

func (c *converter) note(kind, name, text string) {
	c.result.notes = append(c.result.notes, Note{File: c.file, Kind: kind, Name: name, Text: text})
}

// references brings every apiVersion that stands beside a kind under node to Drayage's group, where
// Drayage has the kind: the object's own, owners, scale targets.
func (c *converter) references(node *yaml.Node) {
	if version := value(node, "apiVersion"); version != nil && version.Kind == yaml.ScalarNode {
		if verdict, text := c.catalog.judge(version.Value, scalar(node, "kind")); verdict == converted {
			version.Value = text
		}
	}
	for _, child := range node.Content {
		c.references(child)
	}
}

// rules puts behind each rule of a role its twins for Drayage's groups.
func (c *converter) rules(role *yaml.Node) {
	rules := value(role, "rules")
	if rules == nil || rules.Kind != yaml.SequenceNode {
		return
	}
	var all []*yaml.Node
	for _, rule := range rules.Content {
		all = append(all, rule)
		twins := c.catalog.twins(texts(value(rule, "apiGroups")), texts(value(rule, "resources")))
		for _, group := range slices.Sorted(maps.Keys(twins)) {
			all = append(all, twin(rule, group, twins[group]))
		}
	}
	rules.Content = all
}

// twin copies a rule for another group and its resources.
func twin(rule *yaml.Node, group string, resources []string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: rule.Tag, Style: rule.Style}
	for i := 0; i+1 < len(rule.Content); i += 2 {
		key, from := rule.Content[i].Value, rule.Content[i+1]
		if from.Kind == yaml.AliasNode {
			from = from.Alias
		}
		var entries []string
		switch key {
		case "apiGroups":
			entries = []string{group}
		case "resources":
			entries = resources
		default:
			entries = texts(from)
		}
		sequence := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Style: from.Style}
		style := yaml.Style(0)
		if len(from.Content) > 0 {
			style = from.Content[0].Style
		}
		for _, entry := range entries {
			sequence.Content = append(sequence.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: entry, Style: style})
		}
		out.Content = append(out.Content, plain(key), sequence)
	}
	return out
}

// encode writes documents as YAML.
func encode(documents []*yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	for i, document := range documents {
		if i > 0 {
			out.WriteString("---\n")
		}
		encoder := yaml.NewEncoder(&out)
		encoder.SetIndent(2)
		if err := encoder.Encode(document); err != nil {
			return nil, fmt.Errorf("writing YAML: %w", err)
		}
		if err := encoder.Close(); err != nil {
			return nil, fmt.Errorf("writing YAML: %w", err)
		}
	}
	return out.Bytes(), nil
}

// value returns the value of a mapping's key, nil when it has none.
func value(node *yaml.Node, key string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

func scalar(node *yaml.Node, key string) string {
	if v := value(node, key); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

// texts returns the scalars of a sequence.
func texts(node *yaml.Node) []string {
	if node == nil {
		return nil
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	var out []string
	for _, entry := range node.Content {
		out = append(out, entry.Value)
	}
	return out
}

func plain(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}

func nameOf(object *yaml.Node) string {
	metadata := value(object, "metadata")
	name := scalar(metadata, "name")
	if name == "" {
		name = scalar(metadata, "generateName")
	}
	if namespace := scalar(metadata, "namespace"); namespace != "" {
		return namespace + "/" + name
	}
	if name == "" {
		return "-"
	}
	return name
}
