// Package ebs is the backend for Amazon EBS. Its controller half calls EC2; its node half reads
// sysfs and the instance metadata service.
//
// # State
//
// EC2 is the only store. A volume or snapshot belongs to the driver if its tag
// csi.sealvol.dev/cluster is the cluster's id; the driver neither lists nor changes anything else.
// Other tags hold what EC2 has no fields for (tags.go): the name, the parameters, a hash of the
// class, the source and the origin of a copy, and that an attachment is read-only.
//
// # Idempotency
//
//   - Create looks for the tag of the name, and then sends a client token that is derived from the
//     name. If the volume of a token was deleted, the token is burnt for about 12 hours: EC2 returns
//     an error, or the id of the deleted volume. The next token (-2, -3, ...) is used only when it is
//     certain that the volume does not exist. A describe that does not show it is not enough, because
//     describes lag, and a second volume of the same name would be a leak.
//   - CreateSnapshot has no token. The oldest snapshot of a name is the snapshot, and a call returns
//     only this one. Younger ones, which exist after a lost answer, are deleted when they are found.
//   - Attach, Detach, Delete and Modify first look, then ask, and then wait for the requested state,
//     whatever the call returned. Values that EC2 sets, derives or adjusts itself neither count as
//     requested nor are waited for (docs/adr/0027).
//
// # Concurrency
//
// Within this process, one operation at a time runs on each volume and each name (keyed). The
// controller runs once (leader election). If two overlap, EC2 itself refuses to attach a volume
// twice. Modifications have a separate lock for each volume, because they may last minutes and
// attaching and detaching must not wait for them; it is never taken while another lock is held.
// Lock order: name, volume, device names. While a describe is batched, only the locks of its keys
// are held.
package ebs
