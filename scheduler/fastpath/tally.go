package fastpath

// tally sums up, per domain of a topology, what each node contributes.
type tally struct {
	*topology
	share []int64 // per node
	sum   []int64 // per domain
	total int64
}

func newTally(t *topology) *tally {
	return &tally{topology: t, share: make([]int64, len(t.domain)), sum: make([]int64, len(t.values))}
}

// set replaces a node's contribution. A node outside of the topology contributes nothing.
func (t *tally) set(node int, share int64) {
	d := t.domain[node]
	if d < 0 {
		return
	}
	change := share - t.share[node]
	t.share[node] = share
	t.sum[d] += change
	t.total += change
}

// at returns the sum in a node's domain, and whether the node has one.
func (t *tally) at(node int32) (int64, bool) {
	d := t.domain[node]
	if d < 0 {
		return 0, false
	}
	return t.sum[d], true
}

// appendKey adds what tells nodes apart that the tally treats differently: the sum itself where the domain
// is the node's own (it changes with the node's row only), else the domain.
func (t *tally) appendKey(key []int64, node int) []int64 {
	d := t.domain[node]
	if d < 0 {
		return append(key, -1)
	}
	if t.private {
		return append(key, 0, t.sum[d])
	}
	return append(key, 1, int64(d))
}
