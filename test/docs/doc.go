// Command docs writes the generated parts of docs/kinds: names and columns from the custom resource
// definitions, refused fields from internal/admission; the table of docs/gitops.md from
// test/gitops/phases.yaml; and the commands of docs/cli.md from dray's command tree. `make generate` runs it; with --check it only says
// what is out of date, which `make verify` and a spec use.
package main
