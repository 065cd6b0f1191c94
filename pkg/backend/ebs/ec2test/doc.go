// Package ec2test is a strict EC2 for tests and for trying things out: an HTTP server on loopback that speaks the real wire protocol
// (EC2 Query, answers in XML), so that the real SDK runs against it, and the instance metadata service (IMDSv2).
//
// It knows what the driver uses of volumes, attachments, modifications, snapshots, copies, instances, instance types and zones, and is strict
// about it: an unknown action or parameter is an error, as are a wrong state, zone, size, a taken device name, a full instance. Client
// tokens are remembered as EC2 does, and burnt as EC2 does. Every change of state takes time (Delays), and describes show the past (Delays.Lag).
// Faults are injected call by call.
//
// It is unkind where EC2 is: a change of type begins with EC2's defaults, a copy is gp2, what KMS
// refuses is made or attached and then dropped without a word, what is being modified cannot be
// attached, local disks and network interfaces take room. A test that falls for want of such a
// thing belongs here first.
//
// State is a set of volumes, snapshots and instances under one lock. Nothing runs in the background: each request first carries out
// the transitions that have become due by the server's clock, so a clock of the test's own works (Options.Now).
//
// With Options.Disks volumes are files, and an attached one is a loop device with a directory that stands in for its
// sysfs: <Disks>/sys/class/block/loopN/device/serial.
package ec2test
