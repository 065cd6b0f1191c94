package layout

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func sampleSnapshot() *Snapshot {
	return &Snapshot{Generation: 12, Created: vfs.Timespec{Sec: 5, Nsec: 6}, Tree: samplePointer(TreeFS, 1), Inodes: 7, Blocks: 8, Epoch: 1, Deleting: true, Name: "nightly.2026-01-02T03:04"}
}

func sampleAbandoned() *Abandoned {
	return &Abandoned{Snapshot: 4, Generation: 12, Tree: samplePointer(TreeFS, 1), Lists: true, Next: Key{5, KeyExtent, 6}}
}

// snapDecoders decode and encode again.
var snapDecoders = map[string]func([]byte) ([]byte, error){
	"state": func(b []byte) ([]byte, error) { x, err := DecodeSnapState(b); return x.Append(nil), err },
	"snapshot": func(b []byte) ([]byte, error) {
		x, err := DecodeSnapshot(b)
		if err != nil {
			return nil, err
		}
		return x.Append(nil), nil
	},
	"abandoned": func(b []byte) ([]byte, error) {
		x, err := DecodeAbandoned(b)
		if err != nil {
			return nil, err
		}
		return x.Append(nil), nil
	},
	"log":   func(b []byte) ([]byte, error) { x, err := DecodeDeadLog(b); return x.Append(nil), err },
	"sum":   func(b []byte) ([]byte, error) { x, err := DecodeDeadSum(b); return x.Append(nil), err },
	"item":  func(b []byte) ([]byte, error) { x, err := DecodeDeadItem(b); return AppendDeadItem(nil, x), err },
	"piece": func(b []byte) ([]byte, error) { x, err := DecodeDeadPiece(b); return AppendDeadPiece(nil, x), err },
}

func snapSamples() map[string][]byte {
	return map[string][]byte{
		"state":     (&SnapState{NextID: 7, Point: 5, DeadBlocks: 9}).Append(nil),
		"snapshot":  sampleSnapshot().Append(nil),
		"abandoned": sampleAbandoned().Append(nil),
		"log":       (&DeadLog{3, 8}).Append(nil),
		"sum":       (&DeadSum{99, 1, 4}).Append(nil),
		"item":      AppendDeadItem(nil, []DeadRun{{Run{5, 6}, 7}, {Run{1 << 40, 1}, 0}}),
		"piece":     AppendDeadPiece(nil, []Run{{5, 6}, {1 << 40, 1}}),
	}
}

func TestSnapshotItems(t *testing.T) {
	if got, err := DecodeSnapshot(sampleSnapshot().Append(nil)); err != nil || !reflect.DeepEqual(&got, sampleSnapshot()) {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := DecodeAbandoned(sampleAbandoned().Append(nil)); err != nil || !reflect.DeepEqual(&got, sampleAbandoned()) {
		t.Errorf("%+v %v", got, err)
	}
	for kind, b := range snapSamples() {
		again, err := snapDecoders[kind](b)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: %x again is %x: %v", kind, b, again, err)
		}
		for _, bad := range [][]byte{nil, b[:len(b)-1], append(bytes.Clone(b), 0)} {
			if kind == "snapshot" && len(bad) == len(b)-1 {
				continue // a shorter name
			}
			if _, err := snapDecoders[kind](bad); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s of %d bytes instead of %d: %v", kind, len(bad), len(b), err)
			}
		}
	}
	change := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
	s := snapSamples()
	for _, c := range []struct {
		kind, what string
		b          []byte
	}{
		{"state", "next id 0", change(s["state"], 0, 0)},
		{"state", "point not below the next id", change(s["state"], 4, 7)},
		{"state", "reserved", change(s["state"], 20, 1)},
		{"snapshot", "generation 0", change(s["snapshot"], 0, 0)},
		{"snapshot", "tree of a later generation", change(s["snapshot"], 0, 8)},
		{"snapshot", "flag", change(s["snapshot"], 144, 2)},
		{"snapshot", "reserved", change(s["snapshot"], 146, 1)},
		{"snapshot", "name", change(s["snapshot"], snapshotFixed, '/')},
		{"snapshot", "nanoseconds", change(s["snapshot"], 19, 0xff)},
		{"abandoned", "snapshot 0", change(s["abandoned"], 0, 0)},
		{"abandoned", "flag", change(s["abandoned"], 4, 3)},
		{"abandoned", "reserved", change(s["abandoned"], len(s["abandoned"])-1, 3)},
		{"log", "empty", change(s["log"], 4, 3)},
		{"sum", "empty", change(s["sum"], 0, 0)},
		{"sum", "pieces", change(s["sum"], 8, 9)},
		{"item", "empty run", change(s["item"], 8, 0)},
		{"piece", "beyond any device", change(s["piece"], 7, 1)},
	} {
		if _, err := snapDecoders[c.kind](c.b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s, %s: %v", c.kind, c.what, err)
		}
	}
	for name, ok := range map[string]bool{"a": true, "_1": true, "A.b-c:d+e@f": true, strings.Repeat("x", 128): true,
		"": false, strings.Repeat("x", 129): false, ".a": false, "-a": false, "a/b": false, "a b": false, "a\n": false, "ä": false, "@a": false} {
		if ValidSnapshotName(name) != ok {
			t.Errorf("%q", name)
		}
	}
}

func FuzzDecodeSnapshotItems(f *testing.F) {
	for kind, b := range snapSamples() {
		f.Add(kind, b)
	}
	f.Fuzz(func(t *testing.T, kind string, b []byte) {
		decode := snapDecoders[kind]
		if decode == nil {
			return
		}
		if again, err := decode(b); err == nil {
			same(t, b, again)
		}
	})
}
