// Package upstream turns Drayage's kinds into the upstream kinds that they embed, and back, so that
// upstream's libraries work on them.
//
// Conversions are shallow: the result shares maps, slices and pointers with its argument, so whoever
// writes to it copies first. The package never defaults, validates or drops a field, except the
// summaries for people, which upstream's kinds lack.
package upstream
