package clientcerts

// RememberAt is Remember at a time of one's own.
var RememberAt = remember
