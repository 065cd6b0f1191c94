// Package workerstore is the caller's end of a snapshot worker's store: the process that has the
// network and the store's credentials, and no key. It passes one end of a socket pair to the worker
// (through the mounter) and serves the other, restricted to what the writer of one snapshot needs.
package workerstore
