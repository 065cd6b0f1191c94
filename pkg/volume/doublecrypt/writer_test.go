package doublecrypt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

// fixed is a constant stream of bytes.
type fixed struct{ *rand.ChaCha8 }

func fixedOptions() Options {
	return Options{random: &fixed{rand.NewChaCha8([32]byte{1})}, now: func() time.Time { return time.Unix(1_700_000_000, 0) }}
}

// fixedImage is the SHA-256 of the image that TestFixedImage writes. It changes only if this
// package writes other bytes than before. Then check both implementations' readers.
const fixedImage = "cfd41235c0275587503e0876dd5ce14da98a939f86bb875628cc01ad90488fb9"

// TestFixedImage writes with fixed nonces, padding and times, and compares the image with earlier
// versions, byte for byte.
func TestFixedImage(t *testing.T) {
	const block, blocks = 4096, 128
	dev := memDevice(t, make([]byte, block*blocks))
	c := newCore(t, dev, testKey(t), block, fixedOptions())
	must(t, c.CreateDirectory("dir"))
	must(t, c.CreateFile("dir/file"))
	must(t, c.WriteFile("dir/file", 10, bytes.Repeat([]byte("0123456789"), 1000)))
	must(t, c.CreateFile("empty"))
	must(t, c.Flush())
	must(t, c.Rename("empty", "dir/moved"))
	must(t, c.Truncate("dir/file", 5000))
	must(t, c.RemoveFile("dir/moved"))
	must(t, c.Close())
	img := make([]byte, block*blocks)
	if _, err := dev.ReadAt(img, 0); err != nil {
		t.Fatal(err)
	}
	// This is the example in the description of the format.
	if want := unhex(t, "0d00000044424c4352595054018020"+"8001"); !bytes.HasPrefix(img, want) {
		t.Errorf("header %x, want %x", img[:len(want)], want)
	}
	// Generation 1 went to slot A, 2 to B, 3 to A: 34 bytes, generation, a block below 128, 32
	// bytes of checksum.
	for slot, generation := range map[int]byte{1: 3, 2: 2} {
		if b := img[slot*block:]; !bytes.HasPrefix(b, []byte{0x22, 0, 0, 0, generation}) {
			t.Errorf("slot %d: %x", slot, b[:8])
		}
	}
	sum := sha256.Sum256(img)
	if got := hex.EncodeToString(sum[:]); got != fixedImage {
		t.Errorf("image %s, want %s", got, fixedImage)
	}
	mustClean(t, dev, c.key)
}

// TestTimes checks that times are whole seconds. Through Core, a change of a file also updates the
// directories above, as in the reference implementation. Through vfs, it updates only the file.
func TestTimes(t *testing.T) {
	now := time.Unix(1000, 999)
	o := Options{now: func() time.Time { return now }}
	dev := device.NewMem(4096 * 64)
	c := newCore(t, dev, testKey(t), 4096, o)
	must(t, c.CreateDirectory("d"))
	must(t, c.CreateFile("d/f"))
	must(t, c.Flush())
	now = time.Unix(2000, 5)
	must(t, c.WriteFile("d/f", 0, []byte("x")))
	must(t, c.Flush())
	d := c.v.root.names["d"].node
	f := d.names["f"].node
	if f.created != 1000 || f.modified != 2000 || d.created != 1000 || d.modified != 2000 || c.v.root.modified != 2000 {
		t.Errorf("file %d %d, directory %d %d, root %d", f.created, f.modified, d.created, d.modified, c.v.root.modified)
	}
	must(t, c.Close())
	now = time.Unix(3000, 0)
	v := mustOpen(t, dev, c.key, o)
	if _, err := v.Write(nil, f.ino, 0, []byte("y"), false); err != nil {
		t.Fatal(err)
	}
	must(t, v.Close())
	v = mustOpen(t, dev, c.key, o)
	a, err := v.GetAttr(f.ino)
	must(t, err)
	b, err := v.GetAttr(d.ino)
	must(t, err)
	if a.Mtime.Sec != 3000 || b.Mtime.Sec != 2000 {
		t.Errorf("file %v, directory %v", a.Mtime, b.Mtime)
	}
}
