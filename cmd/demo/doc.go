// Command demo takes one sealed volume through its whole life on this machine, with no cluster and no cloud: it
// starts the driver, calls it as Kubernetes would, works in the volume, and verifies every file after each step. It
// ends with status 0 if everything held, 1 at the first thing that did not, 2 for wrong arguments, 130 when interrupted.
//
// All that it makes (state of the driver, image, mounts) is below one temporary directory, and all its processes are
// its descendants, also those that detach (it is their subreaper). So cleaning up needs nobody's help: end every
// descendant, unmount what is below the directory, remove it.
package main
