package doublecrypt

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// FuzzDecode passes arbitrary bytes to every decoder. The result must be an error, or a value that
// encodes to bytes that decode to the same value.
func FuzzDecode(f *testing.F) {
	var all vectors
	readJSON(f, goldenDir+"/vectors.json", &all)
	for _, x := range all.Encodings {
		f.Add(unhex(f, x.Hex))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}) // a count larger than the input
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(encoded []byte, err error, again func([]byte) ([]byte, error)) {
			if err != nil {
				if !errors.Is(err, vfs.ErrCorrupt) {
					t.Errorf("%v", err)
				}
				return
			}
			if back, err := again(encoded); err != nil || !bytes.Equal(back, encoded) {
				t.Errorf("%x becomes %x, %v", encoded, back, err)
			}
		}
		for _, decode := range []func([]byte) ([]byte, error){
			func(b []byte) ([]byte, error) { h, err := decodeHeader(b); return h.encode(), err },
			func(b []byte) ([]byte, error) { p, err := decodeRootPointer(b); return p.encode(), err },
			func(b []byte) ([]byte, error) { s, err := decodeSuperblock(b); return s.encode(), err },
			func(b []byte) ([]byte, error) { i, err := decodeInode(b); return i.encode(), err },
			func(b []byte) ([]byte, error) { p, err := decodePage(b); return encodePage(p), err },
			func(b []byte) ([]byte, error) { l, err := decodeExtents(b); return encodeExtents(l), err },
		} {
			encoded, err := decode(b)
			same(encoded, err, decode)
		}
		if e, err := decodeEnvelope(b); err == nil && (len(e.nonce) != 12 || e.kind >= kindCount) {
			t.Errorf("%+v", e)
		}
	})
}

// FuzzObject seals any plaintext as each kind and opens it. It also opens arbitrary blocks.
func FuzzObject(f *testing.F) {
	key := testKey(f)
	f.Add(byte(2), []byte("plain"), 5)
	f.Add(byte(5), []byte{}, 0)
	f.Fuzz(func(t *testing.T, k byte, data []byte, extra int) {
		block := make([]byte, 512)
		copy(block, data)
		if _, err := openObject(block, 3, key, kind(k)); err == nil {
			t.Error("opened what was never sealed")
		}
		n := len(data) + int(uint(extra)%64)
		kind := kind(k) % kindCount
		end, err := sealObject(block, key, kind, make([]byte, 12), data, n)
		if (err != nil) != (n > maxPlain(len(block))) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if err != nil {
			return
		}
		plain, err := openObject(block, 3, key, kind)
		if err != nil || end > len(block) || !bytes.Equal(plain, append(bytes.Clone(data), make([]byte, n-len(data))...)) {
			t.Errorf("%d bytes, end %d, %v", n, end, err)
		}
	})
}

// FuzzTree changes the objects of a volume under its valid key, and bytes of its plain blocks.
// Opening, checking and reading the result must end, with or without errors. If it opens for
// writing, writing must work, and the volume must be clean afterwards.
func FuzzTree(f *testing.F) {
	dev := device.NewMem(4096 * 24)
	key := testKey(f)
	c := newCore(f, dev, key, 4096, Options{})
	for _, err := range []error{c.CreateDirectory("d"), c.CreateFile("d/f"), c.WriteFile("d/f", 0, make([]byte, 5000)), c.CreateFile("e"), c.Close()} {
		must(f, err)
	}
	f.Add(uint8(0), uint16(5), uint8(1))
	for block := range uint8(24) {
		f.Add(block, uint16(0), uint8(7))
		f.Add(block, uint16(2), uint8(0xff))
	}
	f.Fuzz(func(t *testing.T, block uint8, at uint16, xor uint8) {
		img := dev.Clone()
		b := &blocks{img, 4096, 24}
		id := uint64(block) % b.count
		buf := b.buffer(1)
		must(t, b.read(id, buf))
		if e, err := decodeEnvelope(payload(buf)); err == nil && id >= firstObject {
			plain, err := key.Open(nil, e.nonce, e.sealed)
			must(t, err)
			if len(plain) > 0 {
				plain[int(at)%len(plain)] ^= xor
			}
			_, err = sealObject(buf, key, e.kind, bytes.Clone(e.nonce), plain, len(plain))
			must(t, err)
		} else {
			buf[int(at)%64] ^= xor
		}
		must(t, b.write(id, buf))
		useAny(t, img)
	})
}

// FuzzImage opens arbitrary bytes as an image.
func FuzzImage(f *testing.F) {
	for _, name := range []string{"fresh-4k", "basic-512"} {
		f.Add(goldenImage(f, name)[:49152])
	}
	f.Fuzz(func(t *testing.T, img []byte) {
		if len(img) > 1<<20 {
			return
		}
		useAny(t, memDevice(t, img))
	})
}

// useAny runs all operations on a device with arbitrary contents.
func useAny(t *testing.T, dev *device.Mem) {
	key := testKey(t)
	if _, err := Check(dev, key, CheckOptions{Data: true}); err != nil && CodeOf(err) == CodeIO {
		t.Error(err)
	}
	if _, err := ReadInfo(dev); err != nil && CodeOf(err) == CodeIO {
		t.Error(err)
	}
	if v, err := Open(dev, key, Options{ReadOnly: true}); err == nil {
		readAny(v)
		must(t, v.Close())
	}
	v, err := Open(dev, key, Options{})
	if err != nil {
		return
	}
	readAny(v)
	if _, err := v.Mknod(nil, vfs.RootIno, strings.Repeat("n", 20), 0, 0); err != nil && !errors.Is(err, vfs.ErrNoSpace) {
		t.Error(err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if r, err := Check(dev, key, CheckOptions{}); err != nil || !r.Clean {
		t.Errorf("%+v, %v", r, err)
	}
}

func readAny(v *Volume) {
	buf := make([]byte, 100_000)
	for ino, n := range v.nodes {
		if n.dir {
			_ = v.ReadDir(ino, 0, true, func(vfs.Dirent, *vfs.Attr) bool { return true })
			continue
		}
		_, _ = v.Read(ino, n.size/2, buf)
		_, _ = v.SeekData(ino, n.size/3)
		_, _ = v.SeekHole(ino, n.size/3)
	}
}

// TestNotOurs checks that volumes of format v2, blank devices and devices that are too small are
// refused.
func TestNotOurs(t *testing.T) {
	for name, img := range map[string][]byte{"blank": make([]byte, 1<<20), "short": make([]byte, 100), "none": nil, "text": bytes.Repeat([]byte("text"), 5000)} {
		dev := memDevice(t, img)
		if ok, err := IsVolume(dev); ok || err != nil {
			t.Errorf("%s: %t, %v", name, ok, err)
		}
		_, err := Open(dev, testKey(t), Options{})
		wantCode(t, err, CodeNotInitialized)
	}
	path := t.TempDir() + "/odd" // a file that ends within a sector
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 128_000))
	dev, err := device.Open(path, device.OpenOptions{})
	must(t, err)
	key := testKey(t)
	must(t, format(dev, key, 1000, 128, Options{}))
	c := NewCore(dev, key, CoreOptions{})
	must(t, c.Open())
	must(t, c.CreateFile("f"))
	must(t, c.Close())
	mustClean(t, dev, key)
	must(t, dev.Close())
}
