// Package requestid gives each call of the container orchestrator an id. The log lines of all
// processes that work on the call have this id: the CSI services, the mounter, the mount server and
// the backends.
//
// The id travels in the context, and between processes beside the request, where a peer of an older
// version does not read it. It is for people and log searches only: no program acts on it.
package requestid
