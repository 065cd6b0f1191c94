package fusefs

import "github.com/hanwen/go-fuse/v2/fuse"

var (
	_ fuse.RawFileSystem = (*raw)(nil)
	_ fuse.ReadResult    = filled(0)

	// go-fuse's ProtocolServer recognises an answer that needs no copy by this method.
	_ interface {
		Readv([][]byte) (int, fuse.Status)
	} = filled(0)
)
