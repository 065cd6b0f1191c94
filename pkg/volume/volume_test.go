package volume

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func testCred(t testing.TB) interface {
	crypto.Credential
	crypto.Recipient
} {
	t.Helper()
	k, err := crypto.NewKey(testKeyBytes())
	if err != nil {
		t.Fatal(err)
	}
	return crypto.SecretCredential(k)
}

func mustFormat(t testing.TB, dev device.Device) {
	t.Helper()
	if err := Format(dev, FormatOptions{Recipient: testCred(t)}); err != nil {
		t.Fatal(err)
	}
}

// fewer is a tenth of n with -short: cases that run one after the other, in which the race
// detector finds nothing that the first would not have shown.
func fewer(n int) int {
	if testing.Short() {
		return max(n/10, 1)
	}
	return n
}

func mustOpen(t testing.TB, dev device.Device, opts Options) *Volume {
	t.Helper()
	opts.Credential = testCred(t)
	v, err := Open(dev, opts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSmoke(t *testing.T) {
	dev := device.NewMem(256 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{})
	req := &vfs.Req{}
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[string][]byte{}
	for i := range 300 {
		name := fmt.Sprintf("f%d", i)
		a, err := v.Mknod(req, vfs.RootIno, name, 0o644, 0)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, rng.IntN(200000))
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		if _, err := v.Write(req, a.Ino, 0, data, false); err != nil {
			t.Fatal(err)
		}
		want[name] = data
		if i%50 == 0 {
			if err := v.Sync(a.Ino); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(v *Volume) {
		t.Helper()
		for name, data := range want {
			a, err := v.Lookup(vfs.RootIno, name)
			if err != nil {
				t.Fatal(name, err)
			}
			got := make([]byte, len(data)+10)
			n, err := v.Read(a.Ino, 0, got)
			if err != nil {
				t.Fatal(name, err)
			}
			if !bytes.Equal(got[:n], data) {
				t.Fatalf("%s: content differs (%d bytes, want %d)", name, n, len(data))
			}
		}
	}
	check(v)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v = mustOpen(t, dev, Options{})
	check(v)
	n := 0
	if err := v.ReadDir(vfs.RootIno, 0, true, func(d vfs.Dirent, a *vfs.Attr) bool { n++; return true }); err != nil || n != 300 {
		t.Fatal(n, err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

func testKeyBytes() []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}
