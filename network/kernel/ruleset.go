package kernel

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Ruleset is a table of chains and rules that changes seldom. The table carries a fingerprint of what
// it should hold (the name of an empty chain), so that taking it over costs a few reads.
type Ruleset struct {
	Table  *nftables.Table
	Chains []*nftables.Chain
	Rules  []*nftables.Rule
}

// NativeUint32 encodes a number as the kernel's registers hold it.
func NativeUint32(value uint32) []byte { return binary.NativeEndian.AppendUint32(nil, value) }

// Ensure leaves the kernel untouched when it holds the ruleset, and replaces the whole table in one
// transaction when it does not.
func (r Ruleset) Ensure(ns *Namespace) error {
	conn, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	mark, err := r.fingerprint()
	if err != nil {
		return err
	}
	if r.present(conn, mark) {
		return nil
	}
	// Deleting a table that is not there is an error, so it is made first.
	conn.AddTable(r.Table)
	conn.DelTable(r.Table)
	conn.AddTable(r.Table)
	for _, chain := range append(r.Chains, &nftables.Chain{Name: mark, Table: r.Table}) {
		conn.AddChain(chain)
	}
	for _, rule := range r.Rules {
		conn.AddRule(rule)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("writing nftables table %s: %w", r.Table.Name, err)
	}
	return nil
}

func (r Ruleset) fingerprint() (string, error) {
	sum := sha256.New()
	for _, chain := range r.Chains {
		fmt.Fprintf(sum, "chain %s %s %d %d\n", chain.Name, chain.Type, *chain.Hooknum, *chain.Priority)
	}
	for _, rule := range r.Rules {
		fmt.Fprintf(sum, "rule %s\n", rule.Chain.Name)
		for _, e := range rule.Exprs {
			encoded, err := expr.Marshal(byte(r.Table.Family), e)
			if err != nil {
				return "", fmt.Errorf("encoding a rule of chain %s: %w", rule.Chain.Name, err)
			}
			sum.Write(encoded)
		}
	}
	return "is-" + hex.EncodeToString(sum.Sum(nil)[:12]), nil
}

// present tells whether the kernel's table has the fingerprint, every chain, and as many rules in each.
func (r Ruleset) present(conn *nftables.Conn, mark string) bool {
	chains, err := conn.ListChainsOfTableFamily(r.Table.Family)
	if err != nil {
		return false
	}
	found := map[string]bool{}
	for _, chain := range chains {
		if chain.Table.Name == r.Table.Name {
			found[chain.Name] = true
		}
	}
	if !found[mark] || len(found) != len(r.Chains)+1 {
		return false
	}
	for _, chain := range r.Chains {
		rules, err := conn.GetRules(r.Table, chain)
		if err != nil || len(rules) != r.count(chain) {
			return false
		}
	}
	return true
}

func (r Ruleset) count(chain *nftables.Chain) int {
	count := 0
	for _, rule := range r.Rules {
		if rule.Chain.Name == chain.Name {
			count++
		}
	}
	return count
}

// Gone tells whether an error says that the kernel does not have the object.
func Gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)
}
