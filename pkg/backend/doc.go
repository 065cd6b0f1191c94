// Package backend is where volumes come from: something that makes, attaches, grows and deletes
// block devices. It knows nothing of encryption, file systems, gRPC or Kubernetes.
//
// One interface, several backends (local: image files in a directory of the node; ebs: volumes of Amazon EBS), one
// conformance suite (backendtest) that every backend passes.
//
// Every call is idempotent and may be repeated after a crash at any point or after its context was
// cancelled. A backend serialises what must be serialised itself: callers may call concurrently.
package backend
