// Package suite is Kubernetes' own storage suite, of which `go test -c` makes a program: of all of Kubernetes' end-to-end tests, those that
// run against any CSI driver ("External.Storage"). It is built of the same module as the cluster.
package suite
