// Package volumetest changes volumes at random, for the tests of whatever reads their states: local
// snapshots, and those in stores.
package volumetest
