package csi_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// groupFiles creates files in a volume that is published at "before", and a link that leaves it.
func groupFiles(t *testing.T, v *vol, outside string) {
	t.Helper()
	for path, mode := range map[string]os.FileMode{"before/d": os.ModeDir | 0o700, "before/d/private": 0o600, "before/program": 0o755, outside: 0o600} {
		if path != outside {
			path = v.target(path)
		}
		var err error
		if mode.IsDir() {
			err = os.MkdirAll(path, mode.Perm())
		} else {
			err = os.MkdirAll(v.target("before/d"), 0o700)
			if err == nil {
				err = os.WriteFile(path, nil, mode)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, v.target("before/link")); err != nil {
		t.Fatal(err)
	}
}

// TestGroup: a publish gives a volume to a pod's group once. What the pod changes later stays, also
// when the kubelet publishes again or another pod of the group gets the volume.
func TestGroup(t *testing.T) {
	r := newRig(t)
	v := r.create("pvc-1", multiWriter).up()
	wantCode(t, v.publishTo("before"), codes.OK)
	outside := r.path("outside")
	groupFiles(t, v, outside)

	publish := func(target, group string, readOnly bool, want codes.Code) {
		t.Helper()
		q := v.publishRequest(target)
		c := capability(multiWriter)
		c.GetMount().VolumeMountGroup = group
		q.VolumeCapability, q.Readonly = c, readOnly
		_, err := r.node.NodePublishVolume(r.ctx(), q)
		wantCode(t, err, want)
	}
	check := func(path string, gid uint32, mode uint32) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Gid != gid || st.Mode&0o7777 != mode {
			t.Errorf("%s: group %d, mode %o; want %d, %o", path, st.Gid, st.Mode&0o7777, gid, mode)
		}
	}
	publish("a", "staff", false, codes.InvalidArgument)
	publish("ro", "2000", true, codes.OK)
	check(v.target("ro/d"), 0, 0o700)
	publish("a", "2000", false, codes.OK)
	check(v.target("a"), 2000, 0o2775)
	check(v.target("a/d"), 2000, 0o2770)
	check(v.target("a/d/private"), 2000, 0o660)
	check(v.target("a/program"), 2000, 0o775)
	check(outside, 0, 0o600)

	if err := os.Chmod(v.target("a/d"), 0o700); err != nil {
		t.Fatal(err)
	}
	publish("a", "2000", false, codes.OK)
	publish("b", "2000", false, codes.OK)
	check(v.target("a/d"), 2000, 0o700)

	// Interrupted before the end: the root directory does not say that the walk is done.
	if err := os.Chown(v.target("a"), 0, 0); err != nil {
		t.Fatal(err)
	}
	publish("c", "2000", false, codes.OK)
	check(v.target("c/d"), 2000, 0o2770)
	publish("d", "3000", false, codes.OK)
	check(v.target("a/d/private"), 3000, 0o660)
	v.drop("before", "ro", "a", "b", "c", "d")
}
