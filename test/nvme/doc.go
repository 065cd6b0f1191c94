// Package nvme runs the node's path on NVMe devices that a real kernel finds: a machine in software (QEMU, Debian's cloud kernel) into which devices are plugged
// and out of which they are pulled while `driver node` and `driver mounter` run in it. The files have the build tag nvme; `make nvme` brings what they
// need, without network or KVM in the tests themselves.
//
// The machine (package vm) has no disk: its first process is test/nvme/agent, which does in it what tests ask for, over a virtio port. CSI calls
// go the same way to the driver's socket.
package nvme
