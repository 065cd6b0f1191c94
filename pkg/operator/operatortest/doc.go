// Package operatortest runs a real API server with etcd and the objects of the chart, for tests of
// programs that use the API server.
package operatortest
