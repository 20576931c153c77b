package cgroups

import (
	"strconv"

	"drayage.dev/agent/resources"
)

// Limit sets the values of the group at path. The group must exist.
func (t *Tree) Limit(path string, values resources.Pod) error {
	if values.CPUQuota != nil && values.CPUPeriod != nil {
		bounded := t.CPUQuota(*values.CPUQuota, int64(*values.CPUPeriod))
		values.CPUQuota = &bounded
	}
	var settings [][3]string
	if t.unified {
		settings = unifiedSettings(values)
	} else {
		settings = legacySettings(values)
	}
	for _, setting := range settings {
		if err := t.set(setting[0], path, setting[1], setting[2]); err != nil {
			return err
		}
	}
	return nil
}

// LimitRoot bounds everything in the tree: to a share of CPU time in thousandths of a CPU and to memory in
// bytes. The root must exist.
func (t *Tree) LimitRoot(milliCPU, memory int64) error {
	quota, period := milliCPU*rootPeriod/1000, uint64(rootPeriod)
	if err := t.Limit(t.root, resources.Pod{CPUQuota: &quota, CPUPeriod: &period, Memory: &memory}); err != nil {
		return err
	}
	t.quota = quota
	return nil
}

// rootPeriod is over which the tree's CPU time is measured, in microseconds.
const rootPeriod = 100_000

// CPUQuota returns the quota, in microseconds per period, that a group in the tree may have: what is wanted,
// but no more than the tree has. Version 1 refuses more; it could not be used in any case.
func (t *Tree) CPUQuota(wanted, period int64) int64 {
	if bound := t.quota * period / rootPeriod; t.quota > 0 && wanted > bound {
		return bound
	}
	return wanted
}

func legacySettings(values resources.Pod) [][3]string {
	var settings [][3]string
	if values.CPUShares != nil {
		settings = append(settings, [3]string{"cpu", "cpu.shares", strconv.FormatUint(*values.CPUShares, 10)})
	}
	if values.CPUPeriod != nil {
		settings = append(settings, [3]string{"cpu", "cpu.cfs_period_us", strconv.FormatUint(*values.CPUPeriod, 10)})
	}
	if values.CPUQuota != nil {
		settings = append(settings, [3]string{"cpu", "cpu.cfs_quota_us", strconv.FormatInt(*values.CPUQuota, 10)})
	}
	if values.Memory != nil {
		settings = append(settings, [3]string{"memory", "memory.limit_in_bytes", strconv.FormatInt(*values.Memory, 10)})
	}
	return settings
}

func unifiedSettings(values resources.Pod) [][3]string {
	var settings [][3]string
	if values.CPUShares != nil {
		settings = append(settings, [3]string{"cpu", "cpu.weight", strconv.FormatUint(weight(*values.CPUShares), 10)})
	}
	if values.CPUQuota != nil && values.CPUPeriod != nil {
		quota := "max"
		if *values.CPUQuota > 0 {
			quota = strconv.FormatInt(*values.CPUQuota, 10)
		}
		settings = append(settings, [3]string{"cpu", "cpu.max", quota + " " + strconv.FormatUint(*values.CPUPeriod, 10)})
	}
	if values.Memory != nil {
		settings = append(settings, [3]string{"memory", "memory.max", strconv.FormatInt(*values.Memory, 10)})
	}
	return settings
}

// weight maps version 1's shares (2 to 262144) to version 2's weight (1 to 10000), by the formula of
// Kubernetes enhancement 2254.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}
