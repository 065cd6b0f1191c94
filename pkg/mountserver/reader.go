package mountserver

import (
	"errors"
	"log/slog"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ReaderOptions are the options of OpenReader.
type ReaderOptions struct {
	// Name is the name by which callers of the control socket know the file system.
	Name string
	// MemoryBytes is what the reader keeps in memory; 0 means volume.DefaultMemory.
	MemoryBytes int64
	// Damaged is the message of the condition that damaged data was found.
	Damaged string
	// Close ends the reader when serving has ended. It may be nil.
	Close func() error
	Log   *slog.Logger
}

// OpenReader returns the server of a file system that is on no device of this machine, such as a
// stored snapshot. Its mount is read-only. The caller then calls MountAndServe, or Close.
func OpenReader(r vfs.Reader, o ReaderOptions) *Server {
	limitMemory(o.MemoryBytes)
	base := &readerBase{FS: vfs.ReadOnly(r), o: o}
	return &Server{opts: Options{ReadOnly: true}, log: o.Log, base: base, fs: base, name: o.Name,
		stop: make(chan struct{}), ended: make(chan struct{}), endView: func() {}}
}

// readerBase is the Served of a reader.
type readerBase struct {
	vfs.FS
	o ReaderOptions
}

// Failed implements volumectl.Served: what is only read has no state that fails.
func (*readerBase) Failed() error { return nil }

// Close implements Served.
func (b *readerBase) Close() error {
	if b.o.Close == nil {
		return nil
	}
	return b.o.Close()
}

// readerMux returns the requests that every mount has.
func (s *Server) readerMux() control.Mux {
	b := s.base.(*readerBase)
	return control.NewMux(&volumectl.Basic{FS: b, Name: s.name, ReadOnly: true, End: s.End, GrowBy: growReader, Conditions: func() []control.Condition {
		if s.damage.last.Load() == nil {
			return nil
		}
		return []control.Condition{{Lost: true, Reason: "DamagedData", Message: b.o.Damaged}}
	}})
}

func growReader() (int64, error) { return 0, errors.New("a stored snapshot cannot grow") }
