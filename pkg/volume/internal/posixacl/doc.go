// Package posixacl knows POSIX access control lists as Linux stores them in
// the extended attributes system.posix_acl_access and
// system.posix_acl_default, and what they do to file modes. Its functions are
// pure; nothing here touches a file system.
//
// # The wire format
//
// Little-endian, from include/uapi/linux/posix_acl_xattr.h:
//
//	offset  size  field
//	0       4     version, 2
//	4       8·n   entries: tag (2 bytes), permissions (2), id (4)
//
// The id is a uid or gid for the tags User and Group, else 0xffffffff. Entries
// are ordered UserObj, User…, GroupObj, Group…, Mask, Other; Mask is required
// as soon as there is a User or Group.
//
// # The rules for a vfs.FS
//
// The kernel checks permissions with the ACL, but leaves keeping it to us. Every
// vfs.FS does the same:
//
//   - SetXattr of the access ACL: Parse, then set the permission bits of the
//     mode to Mode's answer (suid, sgid and sticky stay) and ctime to now. If
//     the ACL says no more than the mode (Mode's second result), the stored
//     attribute is removed, else it is stored as ACL.Encode gives it. One
//     mutation. XattrCreate and XattrReplace look at the stored attribute.
//   - SetXattr of the default ACL: directories only (else ErrInvalid), Parse,
//     then stored. The mode stays.
//   - Neither is possible on a symlink (ErrNotSupported).
//   - RemoveXattr of either: the mode stays; where none is stored it succeeds and
//     changes nothing (as ext4 does, and as setfacl expects).
//   - GetXattr and ListXattr know what is stored: none, none (ErrNoXattr).
//   - SetAttr with a Mode, where an access ACL is stored: stored becomes Chmod's
//     result, in the same mutation.
//   - Mknod, Mkdir and Tmpfile in a directory with a default ACL: the umask is
//     not applied; Inherit gives the mode and both ACLs. Without a default ACL the
//     umask is applied and nothing is inherited. Symlinks inherit nothing.
package posixacl
