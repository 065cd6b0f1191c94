// Package job is what a snapshot worker does on a node (pkg/mounter/worker): it writes one stored
// snapshot of a mounted volume with pkg/snapshot/create.
//
// The worker has no network: the store is a socket. What a job stores for one identity S it may
// store for no other, so it never begins again under another identity: its caller does.
package job
