package dns_test

import clientrest "k8s.io/client-go/rest"

// rest reaches nobody.
func rest(host string) *clientrest.Config { return &clientrest.Config{Host: host} }
