package controlplane

import (
	_ "embed"
	"fmt"
	"os"

	"k8s.io/apiserver/pkg/server/options"

	"drayage.dev/controlplane/pki"
)

// Bounds of the audit log: the file, and as many older ones beside it.
const (
	auditMegabytes = 50
	auditBackups   = 5
	auditDays      = 90
)

//go:embed audit-policy.yaml
var defaultAuditPolicy []byte

// auditLog is where requests are written.
func (c *Config) auditLog() string { return c.serverDir("audit", "audit.log") }

// configureAudit has requests written to the data directory, by Config's policy or by the built-in one, which is
// written beside the log for who wants to know it or start from it.
func configureAudit(audit *options.AuditOptions, config *Config) error {
	audit.PolicyFile = config.AuditPolicyFile
	if err := os.MkdirAll(config.serverDir("audit"), 0o700); err != nil {
		return fmt.Errorf("making the directory of the audit log: %w", err)
	}
	if audit.PolicyFile == "" {
		audit.PolicyFile = config.serverDir("audit", "policy.yaml")
		if err := pki.WriteFile(audit.PolicyFile, defaultAuditPolicy, 0o600); err != nil {
			return fmt.Errorf("writing the audit policy: %w", err)
		}
	}
	log := &audit.LogOptions
	log.Path, log.MaxSize, log.MaxBackups, log.MaxAge = config.auditLog(), auditMegabytes, auditBackups, auditDays
	// Nobody waits for the disk. A crash loses what was said in the last moments, and a disk that is too slow some.
	log.BatchOptions.Mode = options.ModeBatch
	return nil
}
