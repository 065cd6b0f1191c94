package volume

import "github.com/sealvol/sealvol/pkg/volume/internal/layout"

// Statistics describes the current state of an open volume, from memory.
type Statistics struct {
	UUID         string `json:"uuid"`
	Generation   uint64 `json:"generation"`   // of the newest durable root
	Commits      uint64 `json:"commits"`      // since the volume was opened
	DirtyBytes   uint64 `json:"dirtyBytes"`   // data that is not on the device
	WaitingBytes uint64 `json:"waitingBytes"` // freed, but not reusable yet
	RingBytes    uint64 `json:"ringBytes"`    // operations that no root covers
	Freezes      int    `json:"freezes"`      // in effect
	Snapshots    int    `json:"snapshots"`    // including those that are being deleted
	Shares       bool   `json:"shares"`       // some files share data
}

// Statistics does not block.
func (v *Volume) Statistics() Statistics {
	_, _, waiting := v.space.Counts()
	v.snap.mu.Lock()
	snapshots := len(v.snap.byName) + len(v.snap.dying)
	v.snap.mu.Unlock()
	s := Statistics{UUID: v.id.String(), Snapshots: snapshots, Shares: v.shares.Height() > 0, Generation: v.durable.generation(), Commits: v.com.commits.Load(), DirtyBytes: uint64(max(v.adm.dirtyCount(), 0)) * layout.BlockBytes,
		WaitingBytes: uint64(waiting) * layout.BlockBytes, Freezes: v.Frozen()}
	if v.ring != nil {
		s.RingBytes = uint64(v.ring.Used())
	}
	return s
}
