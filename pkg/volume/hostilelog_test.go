package volume

import (
	"fmt"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// log replaces the log by one with other operations.
func (f *forge) log() bool {
	records := f.records()
	if f.one(2) || len(records) == 0 {
		records = append(records, f.invent(1+f.rng.IntN(20)))
	}
	for n := f.rng.IntN(4); n > 0; n-- {
		r := f.rng.IntN(len(records))
		if ops := records[r]; len(ops) > 0 {
			f.op(ops[f.rng.IntN(len(ops))])
		}
	}
	switch f.rng.IntN(12) {
	case 0:
		f.rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		f.note("log: shuffled")
	case 1:
		records = append(records, records...)
		f.note("log: twice")
	case 2:
		records = append(records, f.flood())
	}
	f.writeLog(records)
	return f.note("log of %d records", len(records))
}

// records decodes the log.
func (f *forge) records() (records [][]*layout.Op) {
	payload := make([]byte, crypto.FrameBytes)
	var data []byte
	for seq := f.root.LogSeq; !f.root.Clean && seq < f.root.LogSeq+f.root.LogBlocks; seq++ {
		b := make([]byte, layout.BlockBytes)
		if _, err := f.dev.ReadAt(b, int64(layout.LogOff+seq%f.root.LogBlocks*layout.BlockBytes)); err != nil {
			break
		}
		if f.store.Keys.Newest().OpenFrame(f.root.MountID, seq, b, payload) != nil {
			break
		}
		p, err := crypto.DecodeFramePayload(payload)
		if err != nil {
			break
		}
		data = append(data, p.Data...)
		if p.Flags&crypto.FrameLast == 0 {
			continue
		}
		var ops []*layout.Op
		for rest := data; len(rest) > 0; {
			var op *layout.Op
			if op, rest, err = layout.DecodeOp(rest); err != nil {
				break
			}
			ops = append(ops, op)
		}
		records, data = append(records, ops), nil
	}
	return records
}

// writeLog seals the records as the log of the root's mount.
func (f *forge) writeLog(records [][]*layout.Op) {
	renumber := f.one(2)
	opSeq := f.root.OpSeq
	acked := uint64(0)
	if f.one(3) {
		acked = f.number(f.root.LogSeq)
	}
	for _, ops := range records {
		for _, op := range ops {
			if renumber {
				op.Seq = opSeq
				opSeq++
			}
		}
	}
	f.putLog(records, acked, true)
}

// putLog seals records, some of them with other bytes if spoil is set.
func (f *forge) putLog(records [][]*layout.Op, acked uint64, spoil bool) {
	f.root.Clean = false
	seq := f.root.LogSeq
	payload := make([]byte, crypto.FrameBytes)
	for _, ops := range records {
		var data []byte
		for _, op := range ops {
			at := len(data)
			if data = layout.AppendOp(data, op); spoil && f.one(200) {
				data = append(data[:at], f.spoil(data[at:])...)
			}
		}
		for first := true; len(data) > 0 && seq < f.root.LogSeq+f.root.LogBlocks; seq++ {
			p := crypto.FramePayload{Acked: acked, Base: f.root.Generation, Data: data[:min(len(data), crypto.FrameDataBytes)]}
			data = data[len(p.Data):]
			if first {
				p.Flags |= crypto.FrameFirst
			}
			if first = false; len(data) == 0 || seq+1 == f.root.LogSeq+f.root.LogBlocks {
				p.Flags |= crypto.FrameLast
			}
			ok(f.t, p.Encode(payload))
			b := device.AlignedBytes(layout.BlockBytes)
			ok(f.t, f.store.Keys.Newest().SealFrame(f.root.MountID, seq, payload, b))
			place := layout.LogOff + seq%f.root.LogBlocks*layout.BlockBytes
			f.dev.Corrupt(int64(place), func(x []byte) { copy(x, b) })
		}
	}
}

// ino is an inode that may be there.
func (f *forge) ino() uint64 {
	if f.one(6) {
		return f.number(f.root.NextIno)
	}
	return 1 + f.rng.Uint64N(max(1, f.root.NextIno))
}

// invent makes operations.
func (f *forge) invent(n int) (ops []*layout.Op) {
	dir, file := f.root.NextIno, f.root.NextIno+1
	ops = append(ops, &layout.Op{Type: layout.OpCreate, Ino: dir, Parent: 1, Mode: items.ModeDir | 0o755, Name: fmt.Sprint("new", dir)},
		&layout.Op{Type: layout.OpCreate, Ino: file, Parent: dir, Mode: items.ModeReg | 0o644, Name: "file"})
	for range n {
		op := &layout.Op{Type: layout.OpType(1 + f.rng.IntN(14)), Ino: file, Parent: dir, Parent2: 1, Mode: 0o644, Off: uint64(f.rng.IntN(1 << 20)),
			Len: uint64(f.rng.IntN(1 << 20)), Name: "file", Name2: fmt.Sprint("other", f.rng.IntN(3)), Flags: uint32(f.rng.IntN(128))}
		switch op.Type {
		case layout.OpRename:
			if f.one(3) { // a directory into itself
				op.Ino, op.Parent, op.Parent2, op.Name, op.Flags = dir, 1, dir, fmt.Sprint("new", dir), 0
			}
		case layout.OpWrite:
			op.Data = make([]byte, f.rng.IntN(10000))
		case layout.OpSetXattr:
			op.Name, op.Data = "user.x", make([]byte, f.rng.IntN(5000))
		case layout.OpWriteRef:
			op.Off, op.Len = op.Off&^4095, 4096
			rec := layout.Record{Extent: f.root.Trees[layout.TreeFS].Extent, Addr: f.address(), Tags: make([]crypto.Tag, 1)}
			rec.Kind, rec.Level, rec.Shift, rec.PLen, rec.LLen = layout.KindFileData, 0, 12, 4096, 4096
			op.Extents = []layout.FileExtent{{Record: rec}}
		case layout.OpGrow:
			op.Len = f.number(f.root.DeviceBlocks)
		}
		if f.one(3) {
			op.Ino = f.ino()
		}
		if f.one(5) {
			op.Parent = f.ino()
		}
		if f.one(5) {
			op.Parent2 = f.ino()
		}
		ops = append(ops, op)
	}
	f.note("log: %d operations that were invented", n)
	return ops
}

// op changes fields of an operation.
func (f *forge) op(op *layout.Op) {
	f.note("log: operation of type %d", op.Type)
	numbers := []*uint64{&op.Seq, &op.Ino, &op.Parent, &op.Parent2, &op.Ino2, &op.Off, &op.Len, &op.Off2}
	words := []*uint32{&op.Mode, &op.UID, &op.GID, &op.Rdev, &op.Flags}
	switch f.rng.IntN(7) {
	case 0:
		op.Name = hostileNames[f.rng.IntN(len(hostileNames))]
	case 1:
		op.Name2 = hostileNames[f.rng.IntN(len(hostileNames))]
	case 2:
		w := words[f.rng.IntN(len(words))]
		*w = uint32(f.number(uint64(*w)))
	case 3:
		op.Data = make([]byte, f.rng.IntN(80000))
	case 4:
		if len(op.Extents) > 0 {
			f.extent(&op.Extents[f.rng.IntN(len(op.Extents))])
		}
	default:
		n := numbers[f.rng.IntN(len(numbers))]
		*n = f.number(*n)
	}
}

// flood makes as many small operations as the log may hold, of one kind.
func (f *forge) flood() (ops []*layout.Op) {
	room := int(min(f.root.LogBlocks, 1<<14)) * crypto.FrameDataBytes / []int{1, 4, 16}[f.rng.IntN(3)]
	kind := f.rng.IntN(4)
	base := f.root.NextIno + 10
	ops = append(ops, &layout.Op{Type: layout.OpCreate, Ino: base, Parent: 1, Mode: items.ModeReg | 0o644, Name: fmt.Sprint("flood", base)})
	for i := uint64(1); room > 0; i++ {
		op := &layout.Op{Ino: base}
		switch kind {
		case 0:
			op.Type, op.Ino, op.Mode = layout.OpCreate, base+i, items.ModeReg // orphans
		case 1:
			op.Type, op.Off, op.Len, op.Data = layout.OpWrite, i*8192, 1, []byte{1}
		case 2:
			op.Type, op.Flags, op.Mode = layout.OpSetAttr, layout.SetMode, 0o600
		case 3:
			op.Type, op.Ino, op.Parent, op.Mode, op.Name, op.Name2 = layout.OpCreate, base+i, 1, items.ModeLink, fmt.Sprint("l", base+i), strings.Repeat("t", 100)
		}
		if i == 1 {
			room = room / len(layout.AppendOp(nil, op))
		}
		room--
		ops = append(ops, op)
	}
	f.note("log: a flood of %d operations of type %d", len(ops), ops[len(ops)-1].Type)
	return ops
}
