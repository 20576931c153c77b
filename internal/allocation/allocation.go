package allocation

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
)

// The beginnings of names, by what they claim.
const (
	addressPrefix  = "ip-"
	nodePortPrefix = "nodeport-"
	podCIDRPrefix  = "podcidr-"
)

// ServiceIP returns the claim of owner on an address. An IPv4 address in IPv6's clothes is the IPv4
// address; a zone is dropped.
func ServiceIP(address netip.Addr, owner dnetworkingv1alpha1.AllocationOwner) *dnetworkingv1alpha1.Allocation {
	address = address.Unmap().WithZone("")
	return claim(addressPrefix+dashed(address), dnetworkingv1alpha1.ServiceIP, address.String(), owner)
}

// NodePort returns the claim of owner on a port of every node.
func NodePort(port int32, owner dnetworkingv1alpha1.AllocationOwner) *dnetworkingv1alpha1.Allocation {
	value := strconv.Itoa(int(port))
	return claim(nodePortPrefix+value, dnetworkingv1alpha1.NodePort, value, owner)
}

// PodCIDR returns the claim of owner on a range of pod addresses. Bits beyond the prefix do not count.
func PodCIDR(cidr netip.Prefix, owner dnetworkingv1alpha1.AllocationOwner) *dnetworkingv1alpha1.Allocation {
	cidr = cidr.Masked()
	name := podCIDRPrefix + dashed(cidr.Addr()) + "-" + strconv.Itoa(cidr.Bits())
	return claim(name, dnetworkingv1alpha1.PodCIDR, cidr.String(), owner)
}

// Parse returns what a name claims: the type, and the value in the form that spec.value has. A name that
// is spelled in any other way than ServiceIP, NodePort and PodCIDR spell it is an error.
func Parse(name string) (dnetworkingv1alpha1.AllocationType, string, error) {
	var parsed *dnetworkingv1alpha1.Allocation
	var owner dnetworkingv1alpha1.AllocationOwner
	if rest, ok := strings.CutPrefix(name, addressPrefix); ok {
		if address, err := undashed(rest); err == nil {
			parsed = ServiceIP(address, owner)
		}
	} else if rest, ok := strings.CutPrefix(name, nodePortPrefix); ok {
		if port, err := strconv.ParseUint(rest, 10, 16); err == nil {
			parsed = NodePort(int32(port), owner)
		}
	} else if rest, ok := strings.CutPrefix(name, podCIDRPrefix); ok {
		if i := strings.LastIndexByte(rest, '-'); i >= 0 {
			address, err := undashed(rest[:i])
			bits, bitsErr := strconv.Atoi(rest[i+1:])
			if err == nil && bitsErr == nil {
				if cidr, err := address.Prefix(bits); err == nil {
					parsed = PodCIDR(cidr, owner)
				}
			}
		}
	}
	if parsed == nil || parsed.Name != name {
		return "", "", fmt.Errorf("parsing allocation name %q: it claims nothing", name)
	}
	return parsed.Spec.Type, parsed.Spec.Value, nil
}

func claim(name string, kind dnetworkingv1alpha1.AllocationType, value string, owner dnetworkingv1alpha1.AllocationOwner) *dnetworkingv1alpha1.Allocation {
	return &dnetworkingv1alpha1.Allocation{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       dnetworkingv1alpha1.AllocationSpec{Type: kind, Value: value, Owner: owner},
	}
}

// dashed writes an address as part of a name: IPv6 in full, since a shortened one may end in a colon.
func dashed(address netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(address.StringExpanded())
}

func undashed(text string) (netip.Addr, error) {
	if strings.Count(text, "-") == 3 {
		return netip.ParseAddr(strings.ReplaceAll(text, "-", "."))
	}
	return netip.ParseAddr(strings.ReplaceAll(text, "-", ":"))
}
