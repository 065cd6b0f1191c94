// Package requestid gives one call of the container orchestrator one name, which the log lines of
// all processes carry that work on it: the CSI services, the mounter, the mount server and the
// backends.
//
// The id travels in the context, and between processes beside the request, in a place that a peer of
// an older version does not read. It is a name for people and log searches: nothing is decided by it.
package requestid
