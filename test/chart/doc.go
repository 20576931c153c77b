// Command chart writes the generated parts of charts/drayage, so that chart and binaries have one source:
// the custom resource definitions of config/crd, the roles of config/rbac with the service accounts of the
// chart as subjects, the admission policies of config/policies, and the webhook configurations of package
// webhooks. `make manifests` runs it; with --check it only says what is out of date.
package main
