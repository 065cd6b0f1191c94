// Package e2e proves Sealvol where users run it: in a real cluster with the chart installed, with
// one file per story. The files have the build tag e2e. `make e2e` starts what they need
// (test/e2e/run) and leaves the logs of failures in build/e2e.
package e2e
