// Package vm starts a virtual machine whose first process is the given program, and plugs NVMe
// devices into it. It changes nothing on the host, and the machine reaches nothing but the host's
// files: it has no network device.
//
// Three channels lead to the machine: QMP to QEMU itself (qmp.go), net/rpc to the process inside
// (guest.go), and the console, which is only recorded. All end when QEMU ends, and QEMU ends with
// the context of Start.
package vm
