package fusefstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func xattrs(t *testing.T, dir string) {
	f := dir + "/f"
	must(t, os.WriteFile(f, nil, 0o644))
	value := pattern(65536, 4)
	must(t, unix.Setxattr(f, "user.big", value, 0))
	n, err := unix.Getxattr(f, "user.big", nil)
	if err != nil || n != len(value) {
		t.Fatalf("size: %d, %v", n, err)
	}
	_, err = unix.Getxattr(f, "user.big", make([]byte, 100))
	wantErr(t, "small buffer", err, unix.ERANGE)
	got := make([]byte, 65536)
	if n, err = unix.Getxattr(f, "user.big", got); err != nil || !bytes.Equal(got[:n], value) {
		t.Errorf("value: %d, %v", n, err)
	}
	must(t, unix.Setxattr(f, "user.empty", nil, unix.XATTR_CREATE))
	wantErr(t, "create again", unix.Setxattr(f, "user.empty", nil, unix.XATTR_CREATE), unix.EEXIST)
	wantErr(t, "replace none", unix.Setxattr(f, "user.none", nil, unix.XATTR_REPLACE), unix.ENODATA)
	if n, err := unix.Getxattr(f, "user.empty", got); n != 0 || err != nil {
		t.Errorf("empty: %d, %v", n, err)
	}
	_, err = unix.Listxattr(f, make([]byte, 5))
	wantErr(t, "small list buffer", err, unix.ERANGE)
	n, err = unix.Listxattr(f, got)
	must(t, err)
	if list := string(got[:n]); list != "user.big\x00user.empty\x00" && list != "user.empty\x00user.big\x00" {
		t.Errorf("list: %q", list)
	}
	must(t, unix.Removexattr(f, "user.big"))
	_, err = unix.Getxattr(f, "user.big", got)
	wantErr(t, "removed", err, unix.ENODATA)
	wantErr(t, "remove none", unix.Removexattr(f, "user.big"), unix.ENODATA)
}

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

const aclNobody = 0xffffffff

func acl(entries ...aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// named returns the ACL u::7, u:65534:named, g::5, m::mask, o::0.
func named(named, mask uint16) []byte {
	return acl(aclEntry{1, 7, aclNobody}, aclEntry{2, named, 65534}, aclEntry{4, 5, aclNobody},
		aclEntry{0x10, mask, aclNobody}, aclEntry{0x20, 0, aclNobody})
}

// The attributes that contain ACLs.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// getACL returns an ACL, or nil if there is none.
func getACL(t *testing.T, path, name string) []byte {
	t.Helper()
	b := make([]byte, 1000)
	n, err := unix.Getxattr(path, name, b)
	if err == unix.ENODATA {
		return nil
	}
	must(t, err)
	return b[:n]
}

func acls(t *testing.T, dir string) {
	f := dir + "/f"
	must(t, os.WriteFile(f, []byte("secret"), 0o600))
	asUser(t, func() {
		_, err := unix.Open(f, unix.O_RDONLY, 0)
		wantErr(t, "before the ACL", err, unix.EACCES)
	})
	must(t, unix.Setxattr(f, aclAccess, named(4, 7), 0))
	if st := stat(t, f); st.Mode&0o777 != 0o770 {
		t.Errorf("mode %o after the ACL", st.Mode)
	}
	asUser(t, func() {
		fd, err := unix.Open(f, unix.O_RDONLY, 0)
		if err != nil {
			t.Errorf("with the ACL: %v", err)
			return
		}
		unix.Close(fd)
	})
	must(t, os.Chmod(f, 0o700)) // the mask goes to 0
	if got := getACL(t, f, aclAccess); !bytes.Equal(got, named(4, 0)) {
		t.Errorf("after chmod: %x", got)
	}
	asUser(t, func() {
		_, err := unix.Open(f, unix.O_RDONLY, 0)
		wantErr(t, "with the mask", err, unix.EACCES)
	})
	// An ACL that contains only the mode is not stored.
	must(t, unix.Setxattr(f, aclAccess, acl(aclEntry{1, 6, aclNobody}, aclEntry{4, 4, aclNobody}, aclEntry{0x20, 0, aclNobody}), 0))
	if got := getACL(t, f, aclAccess); got != nil {
		t.Errorf("kept: %x", got)
	}
	if st := stat(t, f); st.Mode&0o777 != 0o640 {
		t.Errorf("mode %o", st.Mode)
	}
	wantErr(t, "invalid ACL", unix.Setxattr(f, aclAccess, acl(aclEntry{1, 6, aclNobody}), 0), unix.EINVAL)
	aclsInherited(t, dir+"/d")
}

// aclsInherited creates files in a directory with a default ACL.
func aclsInherited(t *testing.T, d string) {
	t.Helper()
	must(t, os.Mkdir(d, 0o755))
	must(t, unix.Setxattr(d, aclDefault, named(7, 7), 0))
	old := unix.Umask(0o077) // does not apply in a directory with a default ACL
	err1 := os.WriteFile(d+"/f", nil, 0o664)
	err2 := os.Mkdir(d+"/sub", 0o777)
	unix.Umask(old)
	must(t, errors.Join(err1, err2))
	if st := stat(t, d+"/f"); st.Mode&0o777 != 0o660 {
		t.Errorf("inherited mode %o", st.Mode)
	}
	want := acl(aclEntry{1, 6, aclNobody}, aclEntry{2, 7, 65534}, aclEntry{4, 5, aclNobody}, aclEntry{0x10, 6, aclNobody}, aclEntry{0x20, 0, aclNobody})
	if got := getACL(t, d+"/f", aclAccess); !bytes.Equal(got, want) {
		t.Errorf("inherited %x", got)
	}
	if got := getACL(t, d+"/sub", aclDefault); !bytes.Equal(got, named(7, 7)) {
		t.Errorf("inherited default %x", got)
	}
	must(t, unix.Removexattr(d, aclDefault))
	must(t, unix.Mknod(d+"/plain", unix.S_IFREG|0o640, 0))
	if getACL(t, d+"/plain", aclAccess) != nil {
		t.Error("inherited from nothing")
	}
}
