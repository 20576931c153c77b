package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/clientcmd"

	"drayage.dev/network/nftables"
	"drayage.dev/network/proxy"
	"drayage.dev/network/spec"
)

// proxyCommand makes this program our proxy: kubeconfig and the file for full syncs follow.
const proxyCommand = "proxy"

// runProxy is the agent's proxy and table, and nothing else of the agent.
func runProxy(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s needs a kubeconfig and a file", proxyCommand)
	}
	config, err := clientcmd.BuildConfigFromFlags("", args[0])
	if err != nil {
		return err
	}
	table, err := nftables.New("")
	if err != nil {
		return err
	}
	defer table.Close()
	return proxy.New(proxy.Config{
		Node: proxy.Node{Name: nodeName, Addresses: []netip.Addr{nodeAddress.Addr()}}, RESTConfig: config,
		Backend: timed{table, args[1]}, Log: logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, nil)),
	}).Run(ctx)
}

// timed is the table, and writes down how many seconds each full sync took.
type timed struct {
	*nftables.Table
	file string
}

// Sync is the table's.
func (t timed) Sync(desired map[spec.Key]*spec.Frontend) (bool, error) {
	begun := time.Now()
	changed, err := t.Table.Sync(desired)
	if err == nil && changed {
		line := strconv.FormatFloat(time.Since(begun).Seconds(), 'f', -1, 64) + "\n"
		if err := os.WriteFile(t.file, []byte(line), 0o600); err != nil {
			return changed, err
		}
	}
	return changed, err
}

// compareSyncs compares what the proxies themselves count as a full sync: the kernel's part, without the
// start of the process and the reading of the API.
func compareSyncs(ours, peer *subject, results *report) error {
	data, err := os.ReadFile(ours.syncsFile())
	if err != nil {
		return err
	}
	mine, err := strconv.ParseFloat(strings.TrimSpace(string(data)), 64)
	if err != nil {
		return err
	}
	theirs, err := peer.fullSync()
	if err != nil {
		return err
	}
	results.add("full-sync/kernel", "s as the proxy counts it", mine, theirs)
	return nil
}

// fullSync is how long kube-proxy's full syncs took together, from its metrics.
func (s *subject) fullSync() (seconds float64, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
		return s.node.Dial(network, address, time.Second)
	}}
	response, err := (&http.Client{Timeout: 10 * time.Second, Transport: transport}).Get("http://127.0.0.1:10249/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	const metric = "kubeproxy_sync_full_proxy_rules_duration_seconds_sum"
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), metric); ok {
			return strconv.ParseFloat(value[strings.LastIndexByte(value, ' ')+1:], 64)
		}
	}
	return 0, errors.Join(lines.Err(), fmt.Errorf("kube-proxy has no metric %s", metric))
}
