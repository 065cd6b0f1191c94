// Package vm starts a machine in software whose first process is ours, and plugs NVMe devices into it. Nothing of the host is changed, and nothing but the
// host's files is reached from inside: there is no network device.
//
// Three channels lead to it: QMP to QEMU itself (qmp.go), net/rpc to the process inside (guest.go), and the console, which is only
// written down. All end when QEMU does, and QEMU ends with the context that Start got.
package vm
