package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/sealvol/sealvol/pkg/backend"
	"golang.org/x/sys/unix"
)

func (b *Backend) volume(r record) backend.Volume {
	return backend.Volume{ID: r.ID, Name: r.Name, SizeBytes: r.SizeBytes, Parameters: r.Parameters,
		Topology: []backend.Segments{b.here()}, Attachment: r.Attachment, Source: r.Source, Origin: r.Origin}
}

func (b *Backend) here() backend.Segments { return backend.Segments{TopologyKey: b.opt.Node} }

// Get implements backend.Controller.
func (b *Backend) Get(ctx context.Context, id string) (backend.Volume, error) {
	if err := ctx.Err(); err != nil {
		return backend.Volume{}, err
	}
	r, err := b.byID(id)
	if err != nil {
		return backend.Volume{}, err
	}
	return b.volume(r), nil
}

// List implements backend.Controller. The token is the last id of the previous page.
func (b *Backend) List(ctx context.Context, token string, most int) ([]backend.Volume, string, error) {
	return list(ctx, b, &b.vols, token, most, func() []string { return b.vols.ids }, b.volume)
}

// Health implements backend.Controller.
func (b *Backend) Health(ctx context.Context, id string) ([]backend.Condition, error) {
	r, err := b.byID(id)
	if err != nil {
		return nil, err
	}
	_, err = b.image(r)
	if errors.Is(err, unix.ENOENT) {
		return []backend.Condition{{Lost: true, Inaccessible: true, Reason: "ImageMissing", Message: "the image file of the volume does not exist: restore it from a backup, or delete the volume"}}, nil
	}
	if errors.Is(err, backend.ErrDamaged) {
		return []backend.Condition{{Inaccessible: true, Reason: "ImageDamaged", Message: err.Error()}}, nil
	}
	return nil, err
}

// Info implements backend.Node.
func (b *Backend) Info(context.Context) (backend.NodeInfo, error) {
	return backend.NodeInfo{ID: b.opt.Node, Topology: b.here(), MaxVolumes: b.opt.MaxVolumes}, nil
}

// Device implements backend.Node.
func (b *Backend) Device(ctx context.Context, id string, _ map[string]string) (backend.Device, error) {
	if err := ctx.Err(); err != nil {
		return backend.Device{}, err
	}
	r, err := b.byID(id)
	if err != nil {
		return backend.Device{}, err
	}
	if r.Attachment == nil || r.Attachment.Node != b.opt.Node {
		return backend.Device{}, backend.ErrNotAttached
	}
	dev, err := b.image(r)
	if errors.Is(err, unix.ENOENT) {
		return backend.Device{}, fmt.Errorf("%w: its image file does not exist", backend.ErrDamaged)
	}
	dev.ReadOnly = r.Attachment.ReadOnly
	return dev, err
}

// image finds and checks the image of a volume.
func (b *Backend) image(r record) (backend.Device, error) {
	f, err := b.images.openat(imageFile(r.ID), unix.O_RDONLY, 0)
	if errors.Is(err, unix.ELOOP) {
		return backend.Device{}, fmt.Errorf("%w: its image file is a symbolic link", backend.ErrDamaged)
	}
	if err != nil {
		return backend.Device{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return backend.Device{}, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return backend.Device{}, fmt.Errorf("%w: its image file is not a regular file", backend.ErrDamaged)
	case st.Nlink != 1:
		return backend.Device{}, fmt.Errorf("%w: its image file has %d hard links, want 1", backend.ErrDamaged, st.Nlink)
	case st.Size < r.SizeBytes:
		return backend.Device{}, fmt.Errorf("%w: its image file has %d bytes, want %d", backend.ErrDamaged, st.Size, r.SizeBytes)
	}
	return backend.Device{Path: filepath.Join(b.dirOf("images"), imageFile(r.ID)), SizeBytes: r.SizeBytes,
		Dev: st.Dev, Ino: st.Ino}, nil
}
