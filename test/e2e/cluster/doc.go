// Package cluster is a toolkit for the stories of test/e2e: a namespace for each test, manifests,
// watches with deadlines, commands in pods and on nodes, and diagnostics for failures.
//
// test/e2e/run starts the cluster: KUBECONFIG leads to its API server, CLUSTER_STATE is the
// directory of its nodes, SEALVOL_NAMESPACE is the namespace of the chart, and E2E_OUT is the
// directory for diagnostics.
//
// A test never waits for ever. Every wait has a deadline, and so has the test. At its end, the FUSE
// connections of all volumes are aborted, so that neither the cleanup nor the end of the cluster
// hangs because of a mount server.
package cluster
