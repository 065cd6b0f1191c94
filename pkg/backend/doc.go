// Package backend has the interfaces of storage backends, which create, attach, grow and delete
// block devices. A backend knows nothing of encryption, file systems, gRPC or Kubernetes.
//
// There are several backends (local: image files in a directory of the node; ebs: Amazon EBS
// volumes). One conformance suite (backendtest) tests all of them.
//
// Every call is idempotent and may be repeated after a crash at any point or after its context was
// cancelled. Calls may be concurrent; a backend serialises what it must.
package backend
