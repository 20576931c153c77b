// Package app runs the scheduler as a component: its flags, leader election, health and metrics.
// It is called by the dray-scheduler binary and by the all-in-one dray; what a scheduler decides is
// package scheduler's business.
package app
