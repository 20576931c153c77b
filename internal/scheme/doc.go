// Package scheme owns the one runtime.Scheme of Drayage's processes: Drayage's kinds and those that stay
// as the API server has them. Every client and cache is built with it. It never registers conversions
// or defaults.
package scheme
