package txn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

func testStore(t testing.TB, dev device.Device) *Store {
	t.Helper()
	id := crypto.UUID{1, 2, 3}
	vmk, err := crypto.NewKey(bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	defer vmk.Erase()
	k, err := crypto.DeriveEpochKeys(crypto.SuiteXChaCha20Poly1305, id, 1, vmk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Erase)
	return &Store{Dev: dev, Keys: NewKeys(k)}
}

const testFrames = 256

func record(i, n int) []byte {
	b := bytes.Repeat([]byte{byte(i)}, max(n, 8))
	binary.LittleEndian.PutUint64(b, uint64(i))
	return b
}

func appendRecord(t testing.TB, l *Log, b []byte, sync bool) {
	t.Helper()
	if err := l.Append(b, 5); err != nil {
		t.Fatal(err)
	}
	if sync {
		l.Acked(l.Next())
	}
}

// Whatever was appended since a root is read back, around the ring many times.
func TestLogRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dev := device.NewMem(64 << 20)
	s := testStore(t, dev)
	root := &layout.Root{Generation: 5, LogBlocks: testFrames, MountID: [16]byte{7}}
	l := NewLog(s, root.MountID, testFrames)
	var want [][]byte
	previous := uint64(0)
	for i := range 600 {
		b := record(i, []int{10, FrameData - 1, FrameData, FrameData + 1, 70 * FrameData}[rng.IntN(5)]+rng.IntN(2))
		room := l.Room()
		err := l.Append(b, 5)
		if full := (len(b)+FrameData-1)/FrameData*FrameData > room; full != errors.Is(err, ErrLogFull) || !full && err != nil {
			t.Fatalf("%d bytes with room for %d: %v", len(b), room, err)
		}
		if err != nil || rng.IntN(20) == 0 {
			// A commit: the older of the two roots needs what came before.
			l.Trim(previous)
			previous, root.LogSeq = root.LogSeq, l.Next()
			l.Trim(previous)
			want = nil
			if err != nil {
				continue
			}
		}
		if err == nil && root.LogSeq < l.Next() {
			want = append(want, b)
		}
		if rng.IntN(3) == 0 {
			l.Acked(l.Next())
		}
		if i%7 == 0 {
			rp, err := readLog(s, root)
			if err != nil || len(rp.Records) != len(want) || rp.Next != l.Next() {
				t.Fatalf("after %d: %d records of %d, next %d of %d, %v", i, len(rp.Records), len(want), rp.Next, l.Next(), err)
			}
			for j := range want {
				if !bytes.Equal(want[j], rp.Records[j]) {
					t.Fatalf("record %d differs", j)
				}
			}
		}
	}
}

// read is what ReadLog finds, and the records.
type read struct {
	*Replay
	Records [][]byte
}

func readLog(s *Store, root *layout.Root) (r read, err error) {
	if r.Replay, err = s.ReadLog(root); err != nil {
		return r, err
	}
	var data []byte
	err = s.Records(root, r.Replay, len(r.Ends), func(record int, part []byte, last bool) error {
		if record != len(r.Records) {
			return errors.New("records out of order")
		}
		if data = append(data, part...); last {
			r.Records, data = append(r.Records, data), nil
		}
		return nil
	})
	return r, err
}

func TestLogDamage(t *testing.T) {
	type frame = uint64
	flip := func(dev *device.Mem, f frame) {
		dev.Corrupt(layout.LogOff+int64(f%testFrames)*layout.BlockBytes, func(b []byte) { b[100] ^= 1 })
	}
	for _, c := range []struct {
		name    string
		start   uint64 // frames used before
		acked   int    // records 0..acked-1 are known to be durable by a later frame
		damage  []frame
		records int
		certain int
		err     error
	}{
		{name: "whole", acked: 3, records: 4, certain: 3},
		{name: "whole, around the end", start: testFrames - 3, acked: 3, records: 4, certain: 3},
		{name: "the last frame is torn", acked: 3, damage: []frame{7}, records: 3, certain: 0}, // nobody is left to tell
		{name: "an unacknowledged record in the middle", acked: 0, damage: []frame{3}, records: 1},
		{name: "the first frame", acked: 0, damage: []frame{0}, records: 0},
		{name: "an acknowledged record", acked: 3, damage: []frame{3}, err: ErrLogDamaged},
		{name: "an acknowledged record, around the end", start: testFrames - 4, acked: 3, damage: []frame{2}, err: ErrLogDamaged},
		{name: "the first acknowledged record", acked: 1, damage: []frame{0}, err: ErrLogDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := device.NewMem(64 << 20)
			s := testStore(t, dev)
			root := &layout.Root{Generation: 5, LogBlocks: testFrames, MountID: [16]byte{7}, LogSeq: c.start}
			l := NewLog(s, root.MountID, testFrames)
			for l.Next() < c.start {
				appendRecord(t, l, record(99, 10), true)
				l.Trim(l.Next())
			}
			// Four records of two frames; the last one tells what is durable.
			for i := range 4 {
				if i == c.acked {
					l.Acked(c.start + uint64(2*i))
				}
				appendRecord(t, l, record(i, FrameData+5), i < c.acked)
			}
			for _, f := range c.damage {
				flip(dev, c.start+f)
			}
			rp, err := readLog(s, root)
			if c.err != nil {
				if !errors.Is(err, c.err) {
					t.Fatalf("%+v, %v", rp, err)
				}
				return
			}
			if err != nil || len(rp.Records) != c.records {
				t.Fatalf("%+v, %v", rp, err)
			}
			if c.damage == nil && rp.Certain != c.certain {
				t.Fatalf("%d certain", rp.Certain)
			}
			for i, b := range rp.Records {
				if !bytes.Equal(b, record(i, FrameData+5)) {
					t.Fatalf("record %d differs", i)
				}
			}
		})
	}
}

// A log that is ahead of the root is refused (I4), one of another mount not seen.
func TestLogForeign(t *testing.T) {
	dev := device.NewMem(64 << 20)
	s := testStore(t, dev)
	root := &layout.Root{Generation: 4, LogBlocks: testFrames, MountID: [16]byte{7}}
	l := NewLog(s, root.MountID, testFrames)
	appendRecord(t, l, record(1, 10), true) // base 5
	if _, err := s.ReadLog(root); !errors.Is(err, ErrLogDamaged) {
		t.Fatal(err)
	}
	root.Generation = 5
	if rp, err := readLog(s, root); err != nil || len(rp.Records) != 1 {
		t.Fatal(rp, err)
	}
	root.MountID[0]++
	if rp, err := readLog(s, root); err != nil || len(rp.Records) != 0 {
		t.Fatal(rp, err)
	}
	// Moved to another place, a frame is not taken for the one that belongs there.
	root.MountID[0]--
	b := make([]byte, layout.BlockBytes)
	if _, err := dev.ReadAt(b, layout.LogOff); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.WriteAt(b, layout.LogOff+layout.BlockBytes); err != nil {
		t.Fatal(err)
	}
	if rp, err := readLog(s, root); err != nil || len(rp.Records) != 1 || rp.Next != 1 {
		t.Fatal(rp, err)
	}
}

// badBlock is a device with a block that cannot be read.
type badBlock struct {
	device.Device
	off int64
}

func (d *badBlock) ReadAt(b []byte, off int64) (int, error) {
	if off <= d.off && d.off < off+int64(len(b)) {
		return 0, errors.New("medium error")
	}
	return d.Device.ReadAt(b, off)
}

// A frame that cannot be read may have been acknowledged: opening must fail
// rather than pass over it. Beyond the end of the log it does not matter.
func TestLogUnreadable(t *testing.T) {
	dev := device.NewMem(64 << 20)
	s := testStore(t, dev)
	root := &layout.Root{Generation: 5, LogBlocks: testFrames, MountID: [16]byte{7}}
	l := NewLog(s, root.MountID, testFrames)
	for i := range 3 {
		appendRecord(t, l, record(i, 10), true)
	}
	for f := range int64(6) {
		s.Dev = &badBlock{dev, layout.LogOff + f*layout.BlockBytes}
		rp, err := readLog(s, root)
		if f <= 3 && !errors.Is(err, ErrDevice) {
			t.Fatalf("frame %d: %+v, %v", f, rp, err)
		}
		if f > 3 && (err != nil || len(rp.Records) != 3) {
			t.Fatalf("frame %d: %+v, %v", f, rp, err)
		}
	}
}

func TestRing(t *testing.T) {
	const size = 64 << 10
	r, err := NewRing(size)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	rng := rand.New(rand.NewPCG(2, 2))
	type rec struct {
		end  uint64
		data []byte
	}
	var want []rec
	for i := range 5000 {
		n := rng.IntN(3000)
		if rng.IntN(50) == 0 {
			n = rng.IntN(size)
		}
		data := record(i, n)
		announced := len(data) + rng.IntN(20) // Append is told the most it may be
		before := r.Used()
		err := r.Append(announced, func(b []byte) []byte {
			if len(b) != 0 || cap(b) != announced {
				t.Fatalf("a slice of %d, capacity %d, for %d", len(b), cap(b), announced)
			}
			return append(b, data...)
		})
		switch {
		case errors.Is(err, ErrRingFull):
			if r.Used() != before {
				t.Fatal("a refused record took room")
			}
			if before == 0 && announced <= size/2-16 {
				t.Fatalf("an empty ring refuses %d bytes", announced)
			}
			if len(want) > 0 { // a commit covers half of it
				k := len(want) / 2
				r.Trim(want[k].end)
				want = want[k+1:]
			} else {
				r.Trim(r.Head())
			}
		case err != nil:
			t.Fatal(err)
		default:
			want = append(want, rec{r.Head(), data})
		}
		if r.Used() > size {
			t.Fatal("more in use than there is")
		}
		if i%11 == 0 {
			j := 0
			if err := r.Read(r.Tail(), r.Head(), func(b []byte) error {
				if j >= len(want) || !bytes.Equal(b, want[j].data) {
					return fmt.Errorf("record %d of %d differs", j, len(want))
				}
				j++
				return nil
			}); err != nil || j != len(want) {
				t.Fatal(i, j, len(want), err)
			}
		}
	}
}
