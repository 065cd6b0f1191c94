package main

import (
	"bytes"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
)

// v1Report is the JSON of info for format v1.
type v1Report struct {
	Device        string   `json:"device"`
	DeviceBytes   int64    `json:"deviceBytes"`
	Format        string   `json:"format"`
	FormatVersion int      `json:"formatVersion"`
	BlockBytes    int      `json:"blockBytes"`
	TotalBlocks   uint64   `json:"totalBlocks"`
	MaxFileBytes  uint64   `json:"maxFileBytes"`
	Roots         []v1Root `json:"roots"`
	InUse         bool     `json:"inUse"`
	MountedOn     []string `json:"mountedOn,omitempty"`
	State         *v1State `json:"state,omitempty"` // with a key
}

type v1Root struct {
	Slot       string `json:"slot"`
	Valid      bool   `json:"valid"`
	Generation uint64 `json:"generation"`
}

type v1State struct {
	Generation uint64 `json:"generation"`
	Slot       string `json:"slot"`
	Fallback   string `json:"fallback,omitempty"` // the reason why the newer root is not used
	UsedBytes  int64  `json:"usedBytes"`
	FreeBytes  int64  `json:"freeBytes"`
	Inodes     uint64 `json:"inodes"`
	Problems   int    `json:"problems"`
}

func inspectV1(dev device.Device, path string, cred crypto.Credential) (r *v1Report, err error) {
	info, err := doublecrypt.ReadInfo(dev)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r = &v1Report{Device: path, Format: "doublecrypt", FormatVersion: 1, BlockBytes: info.BlockBytes, TotalBlocks: info.TotalBlocks, MaxFileBytes: info.MaxFileBytes}
	for _, s := range info.Slots {
		r.Roots = append(r.Roots, v1Root(s))
	}
	if r.DeviceBytes, err = dev.Size(); err != nil {
		return nil, err
	}
	if r.InUse, r.MountedOn, err = useOf(path); err != nil {
		return nil, err
	}
	if cred == nil {
		return r, nil
	}
	v, err := openV1(dev, path, cred)
	if err != nil {
		return nil, err
	}
	defer discard(v)
	o, s := v.Opened(), v.Statistics()
	r.State = &v1State{Generation: o.Generation, Slot: o.Slot, Inodes: s.Inodes, Problems: o.DamageCount,
		UsedBytes: int64(s.TotalBlocks-s.FreeBlocks) * int64(s.BlockBytes), FreeBytes: int64(s.FreeBlocks) * int64(s.BlockBytes)}
	if o.Fallback != nil {
		r.State.Fallback = o.Fallback.Error()
	}
	return r, nil
}

func (r *v1Report) text() string {
	var b bytes.Buffer
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-16s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("Device", "%s (%s)", r.Device, formatSize(r.DeviceBytes))
	line("Cipher", "chacha20poly1305; it does not protect against somebody who can write to the device")
	line("Format", "v1 (doublecrypt), %d blocks of %s", r.TotalBlocks, formatSize(int64(r.BlockBytes)))
	for _, s := range r.Roots {
		if s.Valid {
			line("Root slot "+s.Slot, "generation %d", s.Generation)
		} else {
			line("Root slot "+s.Slot, "empty")
		}
	}
	line("In use", "%s", useText(r.InUse, r.MountedOn))
	if s := r.State; s != nil {
		line("Used", "%s, %s free, %d inodes", formatSize(s.UsedBytes), formatSize(s.FreeBytes), s.Inodes)
		line("Generation", "%d, in root slot %s", s.Generation, s.Slot)
		if s.Fallback != "" {
			line("Newer root", "does not verify: %s", s.Fallback)
		}
		if s.Problems > 0 {
			line("Damage", "%d problems; run sealvol fsck to list them", s.Problems)
		}
	}
	return b.String()
}
