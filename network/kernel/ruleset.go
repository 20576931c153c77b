package kernel

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Ruleset is a table of chains and rules that changes seldom. The table carries a fingerprint of what
// it should hold (the name of an empty chain), so that taking it over costs a few reads.
type Ruleset struct {
	Table  *nftables.Table
	Sets   []Set
	Chains []*nftables.Chain
	Rules  []*nftables.Rule
}

// Set is a set of a Ruleset, with everything that is in it. Rules refer to it by its name.
type Set struct {
	*nftables.Set
	Keys [][]byte
}

// setChunk is how many elements go into one message: an attribute holds 64 KiB.
const setChunk = 1000

// countAttempts is how often a ruleset is read that others change meanwhile.
const countAttempts = 5

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
	if r.present(ns, mark) {
		return nil
	}
	// Deleting a table that is not there is an error, so it is made first.
	conn.AddTable(r.Table)
	conn.DelTable(r.Table)
	conn.AddTable(r.Table)
	for number, set := range r.Sets {
		// Identifiers are of one transaction only. The library would count all of the process's sets, without a lock.
		set.ID = uint32(number + 1)
		if err := set.queue(conn); err != nil {
			return fmt.Errorf("encoding set %s: %w", set.Name, err)
		}
	}
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

func (s Set) queue(conn *nftables.Conn) error {
	if err := conn.AddSet(s.Set, nil); err != nil {
		return err
	}
	for part := range slices.Chunk(s.Keys, setChunk) {
		var elements []nftables.SetElement
		for _, key := range part {
			elements = append(elements, nftables.SetElement{Key: key})
		}
		if err := conn.SetAddElements(s.Set, elements); err != nil {
			return err
		}
	}
	return nil
}

func (r Ruleset) fingerprint() (string, error) {
	sum := sha256.New()
	for _, set := range r.Sets {
		fmt.Fprintf(sum, "set %s %s %x\n", set.Name, set.KeyType.Name, set.Keys)
	}
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
func (r Ruleset) present(ns *Namespace, mark string) bool {
	found, err := CountRules(ns, r.Table)
	if err != nil {
		return false
	}
	if _, ok := found[mark]; !ok || len(found) != len(r.Chains)+1 {
		return false
	}
	for _, chain := range r.Chains {
		if count, ok := found[chain.Name]; !ok || count != r.count(chain) {
			return false
		}
	}
	return true
}

// CountRules returns the number of rules of each chain of the table; nothing when there is no table.
// It reads counts only: the library cannot decode every expression that it can write. A ruleset that others change
// meanwhile is read again, a few times.
func CountRules(ns *Namespace, table *nftables.Table) (counts map[string]int, err error) {
	for range countAttempts {
		if counts, err = countRules(ns, table); !errors.Is(err, ErrInterrupted) {
			return counts, err
		}
	}
	return nil, err
}

func countRules(ns *Namespace, table *nftables.Table) (map[string]int, error) {
	counts := map[string]int{}
	err := inTable(ns, table, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME, func(chain string) {
		counts[chain] = 0
	})
	if err != nil {
		return nil, fmt.Errorf("listing chains: %w", err)
	}
	err = inTable(ns, table, unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN, func(chain string) {
		counts[chain]++
	})
	if err != nil {
		return nil, fmt.Errorf("listing rules: %w", err)
	}
	return counts, nil
}

// inTable lists objects of one kind and calls each with the chain attribute of those in the table.
func inTable(ns *Namespace, table *nftables.Table, kind, tableType, chainType uint16, each func(string)) error {
	return ns.DumpNFTables(kind, byte(table.Family), nil, func(attributes []byte) error {
		var ours bool
		var chain string
		err := Attributes(attributes, func(kind uint16, content []byte) {
			switch text := strings.TrimRight(string(content), "\x00"); kind {
			case tableType:
				ours = text == table.Name
			case chainType:
				chain = text
			}
		})
		if ours && err == nil {
			each(chain)
		}
		return err
	})
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
