// Package gitops proves that tools which deploy from Git read Drayage's kinds as they read core's. Its specs
// bring objects of every kind with a status into every phase, by the product's own controllers, scheduler and
// agent code against a real API server, and ask kstatus (Flux) about them. The objects are kept under
// testdata/phases; a spec holds them current, DRAYAGE_UPDATE=1 writes them anew. The module test/gitops/peers
// asks Argo CD's code about the same objects. phases.yaml says what is to come out, docs/gitops.md tells users.
//
// Nothing calls it. It never decides what a status says.
package gitops
