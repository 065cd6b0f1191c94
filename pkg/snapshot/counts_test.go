package snapshot_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/create"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// metered has the store of a rig count requests.
func (r *rig) metered() *chunkstore.Meter {
	r.t.Helper()
	m := chunkstore.NewMeter(r.store.Objects())
	var err error
	r.store, err = snapstore.Open(r.t.Context(), m)
	r.ok(err)
	return m
}

// since returns what was asked for since an earlier count.
func since(m *chunkstore.Meter, before chunkstore.Requests) chunkstore.Requests {
	now := m.Requests()
	return chunkstore.Requests{Get: now.Get - before.Get, Put: now.Put - before.Put, List: now.List - before.List, Stat: now.Stat - before.Stat,
		Delete: now.Delete - before.Delete, DownloadedBytes: now.DownloadedBytes - before.DownloadedBytes, UploadedBytes: now.UploadedBytes - before.UploadedBytes}
}

// TestCounts: a first snapshot takes no more requests than its packs, and one of an unchanged
// volume, or of a changed block, takes about as few as possible, and reads only what changed.
func TestCounts(t *testing.T) {
	r := newRig(t)
	m := r.metered()
	const mib = 96
	rng := rand.NewChaCha8([32]byte{1})
	b := make([]byte, mib<<20)
	_, _ = rng.Read(b)
	r.write("large", b, 0)
	for i := range 200 {
		r.write("small"+string(rune('a'+i%26))+string(rune('a'+i/26)), b[i*777:i*800], 0)
	}
	count := func(what string, do func()) (got chunkstore.Requests, rep *create.Report) {
		t.Helper()
		do()
		before := m.Requests()
		rep = r.snapshot(false)
		got = since(m, before)
		t.Logf("%s: %+v, %d bytes read, %d nodes", what, got, rep.Read, rep.Nodes)
		return got, rep
	}
	if got, _ := count("first", func() {}); got.Put > mib*66/1024+100 || got.Put > mib/16+8 {
		t.Errorf("the first snapshot took %d PUTs", got.Put)
	}
	if got, rep := count("unchanged", func() {}); got.Put > 6 || got.All() > 12 || got.UploadedBytes > 64<<10 || got.DownloadedBytes > 64<<10 || rep.Read != 0 || rep.Full != "" {
		t.Errorf("an unchanged snapshot took %+v, and read %d bytes", got, rep.Read)
	}
	if got, rep := count("one block", func() { r.write("large", []byte("changed"), 50<<20) }); got.Put > 6 || got.All() > 24 || got.UploadedBytes > 300<<10 || rep.Read > 64<<10 {
		t.Errorf("a snapshot of a changed block took %+v, and read %d bytes", got, rep.Read)
	}
	if got, rep := count("one small file", func() { r.write("smallaa", []byte("changed"), 0) }); got.Put > 6 || got.UploadedBytes > 300<<10 || rep.Read > 64<<10 {
		t.Errorf("a snapshot of a changed file took %+v, and read %d bytes", got, rep.Read)
	}
	if got, rep := count("a new file", func() { r.write("new", []byte("new"), 0) }); got.Put > 6 || got.UploadedBytes > 300<<10 || rep.Read > 4096 {
		t.Errorf("a snapshot of a new file took %+v, and read %d bytes", got, rep.Read)
	}
}

// TestSmallReads: reads of parts of a chunk fetch it once, also if several files are read in turn.
func TestSmallReads(t *testing.T) {
	r := newRig(t)
	data := make([]byte, 128<<10)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	a, b := r.write("a", data, 0), r.write("b", data[1:], 0)
	s := r.snapshot(false)
	m := r.metered()
	v := r.read(s.S).View(t.Context())
	buf := make([]byte, 4<<10)
	before := m.Requests()
	for off := 0; off+len(buf) <= 64<<10; off += len(buf) {
		for ino, want := range map[vfs.Ino][]byte{a: data, b: data[1:]} {
			if n, err := v.Read(ino, uint64(off), buf); err != nil || n != len(buf) || !bytes.Equal(buf, want[off:off+n]) {
				t.Fatalf("inode %d at %d: %d bytes, %v", ino, off, n, err)
			}
		}
	}
	// The chunks, the nodes of both files' maps, the map, a page of the list.
	if got := since(m, before); got.Get > 6 {
		t.Errorf("%+v", got)
	}
}
