package fastpath

import (
	"encoding/binary"
	"math"

	fwk "k8s.io/kube-scheduler/framework"
)

// groups holds the nodes that a class lets in, by what tells their scores apart. They are made when a
// class is used for the second time: most classes of one pod never need them.
type groups struct {
	active bool
	byKey  map[string]*group
	list   []*group
	of     []*group // per node, nil where the class may not go
	at     []int32  // per node, its place in its group
	key    []int64
	bytes  []byte
}

type group struct {
	key   string
	index int
	nodes []int32
}

// reset forgets all groups; the next decision makes them anew.
func (g *groups) reset() { g.active = false }

func (g *groups) build(c *class) {
	*g = groups{
		active: true, byKey: map[string]*group{},
		of: make([]*group, len(c.rows)), at: make([]int32, len(c.rows)), key: g.key, bytes: g.bytes,
	}
	for i := range c.rows {
		g.update(c, i)
	}
}

// update moves a node to the group of its row.
func (g *groups) update(c *class, i int) {
	if !g.active {
		return
	}
	if old := g.of[i]; old != nil {
		g.remove(old, i)
	}
	row := &c.rows[i]
	if !row.ok {
		return
	}
	g.key = append(g.key[:0], int64(row.taints), int64(row.preference), row.fixed)
	for _, r := range c.hard {
		g.key = r.appendKey(g.key, i)
	}
	for _, r := range c.soft {
		g.key = r.appendKey(g.key, i)
	}
	g.key = c.affinity.appendKey(g.key, i)
	g.bytes = g.bytes[:0]
	for _, part := range g.key {
		g.bytes = binary.AppendVarint(g.bytes, part)
	}
	into, ok := g.byKey[string(g.bytes)]
	if !ok {
		into = &group{key: string(g.bytes), index: len(g.list)}
		g.byKey[into.key] = into
		g.list = append(g.list, into)
	}
	g.of[i], g.at[i] = into, int32(len(into.nodes))
	into.nodes = append(into.nodes, int32(i))
}

func (g *groups) remove(from *group, i int) {
	last := len(from.nodes) - 1
	moved := from.nodes[last]
	from.nodes[g.at[i]] = moved
	g.at[moved] = g.at[i]
	from.nodes = from.nodes[:last]
	g.of[i] = nil
	if last > 0 {
		return
	}
	delete(g.byKey, from.key)
	end := len(g.list) - 1
	g.list[from.index] = g.list[end]
	g.list[from.index].index = from.index
	g.list = g.list[:end]
}

// candidate stands for some nodes of equal standing by one of them.
type candidate struct {
	node, nodes  int32
	spread, like int64
	// ignored nodes lack a label that the class's soft spread rules need.
	ignored bool
}

// chooser makes decisions; it is kept for its memory.
type chooser struct {
	candidates []candidate
	serial     int
	// refused are nodes that are out of the question for this decision, whatever their rows say.
	refused map[int32]bool
	// normalised: the last decision's scores depend on which other nodes let the class in.
	normalised bool
}

// choose returns a node of the highest score among those that let the class in, and how many do. feasible
// is 0 when none does.
func (ch *chooser) choose(c *class) (node int32, feasible int) {
	for _, r := range c.hard {
		r.settle()
	}
	feasible = ch.collect(c)
	if feasible == 0 {
		return 0, 0
	}
	ch.scoreSpread(c, feasible)
	var maxTaints, maxPreference int32
	var maxSpread int64
	minSpread, minLike, maxLike := int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MinInt64)
	for i := range ch.candidates {
		k := &ch.candidates[i]
		row := c.row(k.node)
		maxTaints, maxPreference = max(maxTaints, row.taints), max(maxPreference, row.preference)
		if !k.ignored {
			minSpread, maxSpread = min(minSpread, k.spread), max(maxSpread, k.spread)
		}
		k.like = c.affinity.score(k.node)
		minLike, maxLike = min(minLike, k.like), max(maxLike, k.like)
	}

	ch.normalised = maxTaints > 0 || maxPreference > 0 || len(c.soft) > 0 || maxLike > minLike
	weight := &c.profile.weight
	best, top := 0, int64(math.MinInt64)
	for i := range ch.candidates {
		k := &ch.candidates[i]
		row := c.row(k.node)
		score := row.fixed
		if maxTaints > 0 {
			score -= weight.taints * (fwk.MaxScore * int64(row.taints) / int64(maxTaints))
		}
		if maxPreference > 0 {
			score += weight.preference * (fwk.MaxScore * int64(row.preference) / int64(maxPreference))
		}
		if len(c.soft) > 0 && !k.ignored {
			if maxSpread > 0 {
				score += weight.spread * (fwk.MaxScore * (maxSpread + minSpread - k.spread) / maxSpread)
			} else {
				score += weight.spread * fwk.MaxScore
			}
		}
		if maxLike > minLike {
			// In the order of upstream's operations: the result is cut off, not rounded.
			part := float64(k.like-minLike) / float64(maxLike-minLike)
			score += weight.affinity * int64(float64(fwk.MaxScore)*part)
		}
		if score > top {
			best, top = i, score
		}
	}
	return ch.candidates[best].node, feasible
}

// collect notes the nodes that let the class in and returns their number.
func (ch *chooser) collect(c *class) (feasible int) {
	ch.candidates = ch.candidates[:0]
	if c.plain {
		for _, k := range c.nodes.kinds {
			if c.kinds[k.number].ok {
				feasible += ch.add(k.nodes)
			}
		}
		return feasible
	}
	admits := func(node int32) bool {
		for _, r := range c.hard {
			if !r.admits(node) {
				return false
			}
		}
		return !c.profile.affinityFilters || c.affinity.admits(node)
	}
	if c.groups.active {
		for _, g := range c.groups.list {
			if admits(g.nodes[0]) {
				feasible += ch.add(g.nodes)
			}
		}
		return feasible
	}
	for i := range c.rows {
		if node := int32(i); c.rows[i].ok && !ch.refused[node] && admits(node) {
			ch.candidates = append(ch.candidates, candidate{node: node, nodes: 1})
			feasible++
		}
	}
	return feasible
}

// add notes nodes of equal standing, the last of them for all, and returns their number.
func (ch *chooser) add(nodes []int32) int {
	count, node := len(nodes), nodes[len(nodes)-1]
	if len(ch.refused) > 0 {
		count = 0
		for _, n := range nodes {
			if !ch.refused[n] {
				count, node = count+1, n
			}
		}
		if count == 0 {
			return 0
		}
	}
	ch.candidates = append(ch.candidates, candidate{node: node, nodes: int32(count)})
	return count
}

// scoreSpread computes raw scores of soft spread rules; lower is better.
func (ch *chooser) scoreSpread(c *class, feasible int) {
	if len(c.soft) == 0 {
		return
	}
	scored := feasible
	for i := range ch.candidates {
		k := &ch.candidates[i]
		for _, r := range c.soft {
			k.ignored = k.ignored || c.needsAll && r.domain[k.node] < 0
		}
		if k.ignored {
			scored -= int(k.nodes)
		}
	}
	ch.serial++
	for _, r := range c.soft {
		if r.byHost {
			r.weigh(scored)
		} else {
			r.weigh(ch.domains(r))
		}
	}
	for i := range ch.candidates {
		k := &ch.candidates[i]
		if k.ignored {
			continue
		}
		var cost float64
		for _, r := range c.soft {
			cost += r.cost(k.node)
		}
		k.spread = int64(math.Round(cost))
	}
}

// domains counts the domains that have a feasible node. Nodes without the label make up one more.
func (ch *chooser) domains(r *spreadRule) (domains int) {
	missing := 0
	for i := range ch.candidates {
		k := &ch.candidates[i]
		d := r.domain[k.node]
		switch {
		case k.ignored:
		case d < 0:
			missing = 1
		case r.private:
			domains += int(k.nodes)
		case r.seen[d] != ch.serial:
			r.seen[d] = ch.serial
			domains++
		}
	}
	return domains + missing
}

// row returns what is known about a node.
func (c *class) row(node int32) *row {
	if c.plain {
		return &c.kinds[c.nodes.kind[node].number].row
	}
	return &c.rows[node]
}
