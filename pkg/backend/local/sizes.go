package local

import (
	"context"
	"fmt"
	"math"

	"github.com/sealvol/sealvol/pkg/backend"
	"golang.org/x/sys/unix"
)

// pickSize returns the smallest valid size in [required, limit].
func pickSize(required, limit int64) (int64, error) {
	if required < 0 || limit < 0 || limit > 0 && limit < required {
		return 0, fmt.Errorf("%w: malformed range of sizes: required %d, limit %d bytes", backend.ErrInvalid, required, limit)
	}
	size := max(required, MinVolumeBytes)
	if required == 0 {
		size = DefaultVolumeBytes
		if limit > 0 {
			size = min(size, limit/Align*Align)
		}
	}
	if size > MaxVolumeBytes {
		return 0, fmt.Errorf("%w: %d bytes exceed the maximum size of a volume, %d bytes", backend.ErrOutOfRange, size, int64(MaxVolumeBytes))
	}
	size = (size + Align - 1) / Align * Align
	if size < MinVolumeBytes || limit > 0 && size > limit {
		return 0, fmt.Errorf("%w: no multiple of %d bytes lies between %d and %d bytes", backend.ErrOutOfRange, Align, max(required, MinVolumeBytes), limit)
	}
	return size, nil
}

// limit returns how many bytes may be promised in total.
func (b *Backend) limit() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(b.images.dir.Fd()), &st); err != nil {
		return 0, err
	}
	// Exclude blocks that are reserved for root, because the driver may run without that privilege.
	blocks := st.Blocks - (st.Bfree - st.Bavail)
	total := float64(blocks) * float64(st.Bsize) * b.opt.Overcommit
	return int64(min(total, float64(math.MaxInt64/2))), nil
}

func (b *Backend) fits(more int64) error {
	limit, err := b.limit()
	if err != nil {
		return err
	}
	if more > limit-b.promised {
		return fmt.Errorf("%w: %d bytes requested, but %d of %d bytes are already promised to volumes; free some, or raise --local-overcommit", backend.ErrNoSpace, more, b.promised, limit)
	}
	return nil
}

// Expand implements backend.Controller.
func (b *Backend) Expand(ctx context.Context, id string, required, limit int64) (int64, error) {
	if required <= 0 && limit <= 0 {
		return 0, fmt.Errorf("%w: the size is missing", backend.ErrInvalid)
	}
	if err := b.begin(ctx); err != nil {
		return 0, err
	}
	defer b.mu.Unlock()
	r, err := b.byID(id)
	if err != nil {
		return 0, err
	}
	size, err := pickSize(max(required, r.SizeBytes), 0)
	if err != nil {
		return 0, err
	}
	if limit > 0 && size > limit {
		return 0, fmt.Errorf("%w: the volume needs %d bytes, which is more than the limit of %d bytes", backend.ErrOutOfRange, size, limit)
	}
	if limit < 0 || required < 0 {
		return 0, fmt.Errorf("%w: negative size", backend.ErrInvalid)
	}
	if size == r.SizeBytes { // an earlier call may have been interrupted after writing the record
		return size, b.images.extend(imageFile(id), size, false)
	}
	if err := b.fits(size - r.SizeBytes); err != nil {
		return 0, err
	}
	old := r.SizeBytes
	r.SizeBytes = size
	err = b.save(r)
	if back, lerr := b.byID(id); lerr == nil {
		b.promised += back.SizeBytes - old
	}
	if err != nil {
		return 0, err
	}
	// Repeating the call, or Open, repairs a failure from here on.
	if err := b.images.extend(imageFile(id), size, false); err != nil {
		return 0, b.diskError(err)
	}
	b.opt.Log.DebugContext(ctx, "image grown", "volume", id, "bytes", size)
	return size, nil
}

// Capacity implements backend.Controller.
func (b *Backend) Capacity(ctx context.Context, where backend.Segments) (backend.Capacity, error) {
	c := backend.Capacity{MinVolumeBytes: MinVolumeBytes, MaxVolumeBytes: MaxVolumeBytes}
	if where != nil && !b.reaches([]backend.Segments{where}) {
		return c, nil
	}
	if err := ctx.Err(); err != nil {
		return c, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	limit, err := b.limit()
	c.AvailableBytes = max(0, limit-b.promised) / Align * Align
	c.MaxVolumeBytes = min(c.MaxVolumeBytes, c.AvailableBytes)
	return c, err
}
