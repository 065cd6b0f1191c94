// Package suite compiles a part of Kubernetes' end-to-end tests into a program with `go test -c`:
// the storage tests that run against any CSI driver ("External.Storage"). It is built from the same
// module as the cluster.
package suite
