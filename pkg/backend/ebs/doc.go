// Package ebs is the backend of Amazon EBS. Its controller half speaks to EC2, its node half to sysfs and the instance metadata service.
//
// # What is where
//
// EC2 is the only store. A volume or snapshot is ours if its tag csi.sealvol.dev/cluster is our cluster's id; everything else is
// neither listed nor touched. Further tags hold what EC2 has no place for (tags.go): the name, the parameters, a hash of the class,
// the source and the origin of a copy, and that the attachment is a read-only one.
//
// # What repeats safely
//
//   - Create looks for the name's tag, then asks with a client token derived from the name. A token whose volume is gone is burnt for about
//     12 hours: EC2 says so, or gives the dead volume's id again. The next token, -2, -3 ..., is used only once it is certain that the volume does not exist,
//     rather than that describes do not show it yet: they lag, and a second volume of one name is a leak.
//   - CreateSnapshot has no token. The oldest of a name is the snapshot; a call returns only one that it sees that way, so
//     that younger ones, which a lost answer may leave, are nobody's and are deleted by whoever meets them.
//   - Attach, Detach, Delete and Modify look first, ask, and then wait for the state that was asked for, whatever the call said. What EC2 sets,
//     derives or adjusts by itself is neither taken for what was asked for nor waited for (docs/adr/0069).
//
// # Concurrency
//
// One operation at a time on each volume and each name (keyed), within this process. The controller runs once (leader election); if two overlap, EC2
// itself refuses to attach a volume twice. Modifications have a lock of their own for each volume,
// which nobody takes who holds another: they may last minutes, and nobody who attaches or detaches
// may wait for them. Lock order: name, volume, device names. Nothing is held while a describe is
// batched
// but the locks of the keys concerned.
package ebs
