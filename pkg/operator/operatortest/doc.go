// Package operatortest runs a real API server with etcd, and the chart's objects in it, for tests of who talks to one.
package operatortest
