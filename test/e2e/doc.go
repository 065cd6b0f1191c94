// Package e2e proves Sealvol where users run it: one file a story, in a real cluster with the chart installed. The files have the build tag
// e2e; `make e2e` brings up what they need (test/e2e/run) and leaves logs of what failed in build/e2e.
package e2e
