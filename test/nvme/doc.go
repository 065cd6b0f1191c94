// Package nvme tests the node's path with NVMe devices that a real kernel finds: tests plug devices
// into a virtual machine (QEMU with Debian's cloud kernel) and pull them out while `driver node`
// and `driver mounter` run in it. The files have the build tag nvme. `make nvme` provides what they
// need; the tests themselves need neither network nor KVM.
//
// The machine (package vm) has no disk. Its first process is test/nvme/agent, which executes the
// requests of tests, received over a virtio port. CSI calls take the same way to the driver's
// socket.
package nvme
