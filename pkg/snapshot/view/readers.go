package view

import (
	"slices"
	"sync"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// maxReaders is how many files have a reader. Each keeps the chunks that were read last, at most
// 1 MiB with chunks of 64 KiB, so that small reads of one chunk fetch it once.
const maxReaders = 16

// readers are those of the files that were read last. A snapshot does not change, so a reader stays
// valid.
type readers struct {
	mu   sync.Mutex
	list []fileReader // the last one that was used is the last one; guarded by mu
}

type fileReader struct {
	ino vfs.Ino
	r   *selfenc.Reader
}

// get returns the reader of a file, or makes it.
func (s *readers) get(ino vfs.Ino, make func() (*selfenc.Reader, error)) (*selfenc.Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.list, func(f fileReader) bool { return f.ino == ino })
	if i < 0 {
		r, err := make()
		if err != nil {
			return nil, err
		}
		s.list = append(s.list, fileReader{ino, r})
		s.list = slices.Delete(s.list, 0, max(0, len(s.list)-maxReaders))
		return r, nil
	}
	f := s.list[i]
	s.list = append(slices.Delete(s.list, i, i+1), f)
	return f.r, nil
}
