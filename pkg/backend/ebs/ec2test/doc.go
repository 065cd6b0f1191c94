// Package ec2test is a strict EC2 for tests and experiments: an HTTP server on loopback that speaks
// the real wire protocol (EC2 Query with XML responses), so that the real SDK runs against it, and
// the instance metadata service (IMDSv2).
//
// It implements what the driver uses of volumes, attachments, modifications, snapshots, copies,
// instances, instance types and zones. It is strict: an unknown action or parameter is an error,
// and so is a wrong state, zone or size, a used device name, or a full instance. It remembers and
// burns client tokens as EC2 does. Every change of state takes time (Delays), and describes show
// the past (Delays.Lag). Faults can be injected call by call.
//
// It reproduces EC2's surprises: a change of type starts with EC2's defaults, a copy is gp2, a
// volume or attachment whose key KMS refuses is dropped silently, a volume that is being modified
// cannot be attached, and local disks and network interfaces use attachment slots. When a test
// reveals another surprise, add it here first.
//
// The state is a set of volumes, snapshots and instances under one lock. Nothing runs in the
// background: each request first executes the transitions that are due by the server's clock, so
// tests can use a clock of their own (Options.Now).
//
// With Options.Disks, volumes are files, and an attached volume is a loop device with a directory
// that replaces its sysfs directory: <Disks>/sys/class/block/loopN/device/serial.
package ec2test
