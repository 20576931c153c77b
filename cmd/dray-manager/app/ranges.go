package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"
)

// ourRange is a range of Drayage's and what it is called by who sets it.
type ourRange struct {
	what, flag, setting, value string
	prefixes                   []netip.Prefix
}

// checkRanges refuses ranges of Drayage's pods and services that overlap with those of the cluster that it is
// installed in: with the pod range or an address of a node, and with the service ranges. Agents look at their nodes'
// routes besides.
func checkRanges(ctx context.Context, client kubernetes.Interface, podCIDR, serviceCIDR string) error {
	var ours []ourRange
	for _, each := range []ourRange{
		{what: "pod range", flag: "--pod-cidr", setting: "network.podCIDR", value: podCIDR},
		{what: "service range", flag: "--service-cidr", setting: "network.serviceCIDR", value: serviceCIDR},
	} {
		for text := range strings.SplitSeq(each.value, ",") {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return fmt.Errorf("reading %s: %w", each.flag, err)
			}
			each.prefixes = append(each.prefixes, prefix.Masked())
		}
		ours = append(ours, each)
	}
	check := func(theirs, whose string) error {
		prefix, err := netip.ParsePrefix(theirs)
		if err != nil {
			address, err := netip.ParseAddr(theirs)
			if err != nil {
				return nil
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		for _, each := range ours {
			for _, own := range each.prefixes {
				if own.Overlaps(prefix) {
					return fmt.Errorf("the %s %s overlaps with %s, %s; choose another with %s (the chart's value %s)",
						each.what, own, theirs, whose, each.flag, each.setting)
				}
			}
		}
		return nil
	}
	return errors.Join(checkServiceRanges(ctx, client, check), checkNodes(ctx, client, check))
}

func checkServiceRanges(ctx context.Context, client kubernetes.Interface, check func(theirs, whose string) error) error {
	ranges, err := client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	// Before Kubernetes 1.33 there is no such kind.
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading the cluster's service ranges: %w", err)
	}
	for _, each := range ranges.Items {
		for _, theirs := range each.Spec.CIDRs {
			if err := check(theirs, "the cluster's service range "+each.Name); err != nil {
				return err
			}
		}
	}
	service, err := client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the cluster's service kubernetes: %w", err)
	}
	for _, theirs := range service.Spec.ClusterIPs {
		if err := check(theirs, "the address of the cluster's service kubernetes"); err != nil {
			return err
		}
	}
	return nil
}

func checkNodes(ctx context.Context, client kubernetes.Interface, check func(theirs, whose string) error) error {
	list := pager.New(pager.SimplePageFunc(func(options metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Nodes().List(ctx, options)
	}))
	return list.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error {
		node := object.(*corev1.Node)
		for _, theirs := range node.Spec.PodCIDRs {
			if err := check(theirs, "the pod range of the cluster's node "+node.Name); err != nil {
				return err
			}
		}
		for _, address := range node.Status.Addresses {
			if err := check(address.Address, "an address of the cluster's node "+node.Name); err != nil {
				return err
			}
		}
		return nil
	})
}
