package posixacl

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func minimal(u, g, o uint16) ACL {
	return ACL{{UserObj, u, NoID}, {GroupObj, g, NoID}, {Other, o, NoID}}
}

func full(u, named, g, m, o uint16) ACL {
	return ACL{{UserObj, u, NoID}, {User, named, 1000}, {GroupObj, g, NoID}, {Mask, m, NoID}, {Other, o, NoID}}
}

// The bytes that setfacl writes for u::rw-,u:1000:r--,g::r--,m::r--,o::r--.
var golden = []byte{
	2, 0, 0, 0,
	1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
	2, 0, 4, 0, 0xe8, 0x03, 0, 0,
	4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
	16, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
	32, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
}

func TestGolden(t *testing.T) {
	a, err := Parse(golden)
	if err != nil {
		t.Fatal(err)
	}
	if want := full(6, 4, 4, 4, 4); !reflect.DeepEqual(a, want) {
		t.Fatalf("got %v, want %v", a, want)
	}
	if !bytes.Equal(a.Encode(), golden) {
		t.Fatalf("encoded %x", a.Encode())
	}
}

func TestValidate(t *testing.T) {
	good := []ACL{
		minimal(7, 5, 0),
		full(7, 7, 5, 7, 0),
		{{UserObj, 7, NoID}, {GroupObj, 7, NoID}, {Group, 1, 5}, {Group, 1, 6}, {Mask, 7, NoID}, {Other, 0, NoID}},
		{{UserObj, 7, NoID}, {GroupObj, 7, NoID}, {Mask, 7, NoID}, {Other, 0, NoID}},
	}
	for i, a := range good {
		if err := a.Validate(); err != nil {
			t.Errorf("good %d: %v", i, err)
		}
	}
	bad := []ACL{
		nil,
		{{UserObj, 7, NoID}},
		minimal(8, 0, 0),
		{{UserObj, 7, NoID}, {Other, 0, NoID}},
		{{GroupObj, 7, NoID}, {UserObj, 7, NoID}, {Other, 0, NoID}},
		{{UserObj, 7, NoID}, {User, 7, 1}, {GroupObj, 7, NoID}, {Other, 0, NoID}},
		{{UserObj, 7, NoID}, {User, 7, NoID}, {GroupObj, 7, NoID}, {Mask, 7, NoID}, {Other, 0, NoID}},
		{{UserObj, 7, NoID}, {GroupObj, 7, NoID}, {Mask, 7, NoID}, {Mask, 7, NoID}, {Other, 0, NoID}},
		append(minimal(7, 7, 7), Entry{Other, 7, NoID}),
		append(minimal(7, 7, 7), Entry{0, 0, NoID}),
		{{UserObj, 7, NoID}, {UserObj, 7, NoID}, {GroupObj, 7, NoID}, {Other, 0, NoID}},
		{{UserObj, 7, NoID}, {0x40, 7, NoID}, {GroupObj, 7, NoID}, {Other, 0, NoID}},
	}
	for i, a := range bad {
		if err := a.Validate(); !errors.Is(err, vfs.ErrInvalid) {
			t.Errorf("bad %d: %v", i, err)
		}
	}
	for _, b := range [][]byte{nil, {2, 0, 0}, {1, 0, 0, 0}, golden[:len(golden)-1], golden[:4]} {
		if _, err := Parse(b); !errors.Is(err, vfs.ErrInvalid) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

func TestMode(t *testing.T) {
	for _, c := range []struct {
		acl   ACL
		mode  uint32
		equiv bool
	}{
		{minimal(7, 5, 4), 0o754, true},
		{full(7, 7, 5, 6, 1), 0o761, false},
		{ACL{{UserObj, 6, NoID}, {GroupObj, 7, NoID}, {Mask, 4, NoID}, {Other, 0, NoID}}, 0o640, false},
	} {
		if m, e := c.acl.Mode(); m != c.mode || e != c.equiv {
			t.Errorf("%v: %o, %v", c.acl, m, e)
		}
	}
}

func TestChmod(t *testing.T) {
	before := full(7, 7, 5, 7, 5)
	if got, want := before.Chmod(0o4640), full(6, 7, 5, 4, 0); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if !reflect.DeepEqual(before, full(7, 7, 5, 7, 5)) {
		t.Error("the argument changed")
	}
	if got := minimal(7, 7, 7).Chmod(0o640); !reflect.DeepEqual(got, minimal(6, 4, 0)) {
		t.Errorf("got %v", got)
	}
}

func TestInherit(t *testing.T) {
	// A plain default ACL is a mask on the mode and leaves no access ACL.
	mode, access, deflt := Inherit(minimal(7, 5, 0), 0o100666, false)
	if mode != 0o100640 || access != nil || deflt != nil {
		t.Errorf("%o %v %v", mode, access, deflt)
	}
	def := full(7, 7, 5, 7, 5)
	mode, access, deflt = Inherit(def, 0o42770, true)
	if mode != 0o42770 || !reflect.DeepEqual(access, full(7, 7, 5, 7, 0)) || !reflect.DeepEqual(deflt, def) {
		t.Errorf("%o %v %v", mode, access, deflt)
	}
	mode, access, _ = Inherit(def, 0o100644, false)
	if mode != 0o100644 || !reflect.DeepEqual(access, full(6, 7, 5, 4, 4)) {
		t.Errorf("%o %v", mode, access)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(golden)
	f.Add(minimal(7, 5, 0).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Parse(b)
		if err != nil {
			return
		}
		b2 := a.Encode()
		a2, err := Parse(b2)
		if err != nil || len(a2) != len(a) {
			t.Fatalf("%v %v", a2, err)
		}
		if !bytes.Equal(a2.Encode(), b2) {
			t.Fatal("unstable encoding")
		}
	})
}
