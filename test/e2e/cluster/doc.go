// Package cluster is what stories of test/e2e are told with: a namespace for each test, manifests, waiting by watches with deadlines,
// commands in pods and on nodes, and the evidence of what failed.
//
// The cluster is the one that test/e2e/run made: KUBECONFIG says where its API server is, CLUSTER_STATE where its nodes are, SEALVOL_NAMESPACE
// where the chart is installed, E2E_OUT where evidence goes.
//
// A test never waits for ever. Every wait has a deadline, and so has the test: at its end the FUSE connections of all volumes are aborted,
// so that nothing hangs for a server that does, neither the clean-up nor the cluster's end.
package cluster
