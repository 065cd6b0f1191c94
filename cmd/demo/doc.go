// Command demo runs the whole life of one volume on this machine, without a cluster or a cloud. It
// starts the driver, calls it like Kubernetes, works in the volume, and verifies every file after
// each step. Its exit status is 0 if everything succeeded, 1 at the first failure, 2 for wrong
// arguments, and 130 if it was interrupted.
//
// All files (state of the driver, image, mounts) are below one temporary directory. All processes
// are descendants of the demo, even those that detach, because it is their subreaper. So it can
// always clean up by itself: it ends all descendants, unmounts everything below the directory, and
// removes it.
package main
