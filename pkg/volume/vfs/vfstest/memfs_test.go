package vfstest

import (
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func TestMemFSCompare(t *testing.T) {
	for seed := range uint64(5) {
		Compare(t, seed, 3000, NewMemFS(), NewMemFS())
	}
}

func TestMemFS(t *testing.T) {
	Run(t, func(*testing.T) (vfs.FS, func() vfs.FS) {
		m := NewMemFS()
		return m, func() vfs.FS { return m }
	})
}
