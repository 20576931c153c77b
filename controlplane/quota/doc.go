// Package quota makes a namespace's ResourceQuota hold for Drayage's pods and services as it holds for upstream's:
// upstream's code counts them, given them in upstream's types. The API server's admission asks it before
// anything is stored, and upstream's controller, which housekeeping runs, keeps the used amounts.
//
// It serves the embedded API server only. It decides nothing itself.
package quota
