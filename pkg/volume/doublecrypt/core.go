package doublecrypt

import (
	"errors"
	"sync"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Core corresponds to FilesystemCore of the reference implementation: operations by path, with its
// errors. Use it after InitFilesystem or Open. There are three differences from the reference
// implementation: methods may be called concurrently, a write that does not fit fails immediately
// and not at the next flush, and Close loses no data.
//
// The components of paths are separated by "/". Leading and trailing slashes are ignored.
type Core struct {
	dev  device.Device
	key  *crypto.DoublecryptKey
	size int    // block size; 0 means that of the header
	want uint64 // number of blocks; 0 means those of the device
	opts Options

	mu sync.RWMutex // protects v from InitFilesystem, Open and Close
	v  *Volume
}

// CoreOptions are the options of NewCore.
type CoreOptions struct {
	BlockBytes  int    // 0 means that of the header, or DefaultBlock for InitFilesystem
	TotalBlocks uint64 // 0 means as many as the device holds
	Volume      Options
}

// NewCore returns a Core for a device. The caller keeps ownership of device and key, which must
// remain valid until Close.
func NewCore(dev device.Device, key *crypto.DoublecryptKey, o CoreOptions) *Core {
	o.Volume.ancestorTimes = true
	return &Core{dev: dev, key: key, size: o.BlockBytes, want: o.TotalBlocks, opts: o.Volume}
}

// InitFilesystem creates an empty file system, and opens it.
func (c *Core) InitFilesystem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.closeVolume(); err != nil {
		return err
	}
	size := c.size
	if size == 0 {
		size = DefaultBlock
	}
	if err := format(c.dev, c.key, size, c.want, c.opts); err != nil {
		return err
	}
	return c.open()
}

// Open opens the existing file system.
func (c *Core) Open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.closeVolume(); err != nil {
		return err
	}
	return c.open()
}

func (c *Core) open() error {
	h, _, err := readHeader(c.dev)
	if err != nil {
		return err
	}
	if c.size != 0 && int(h.blockSize) != c.size {
		return &Error{Variant: BlockSizeMismatch, Value: uint64(c.size), Max: uint64(h.blockSize)}
	}
	v, err := Open(c.dev, c.key, c.opts)
	if err == nil {
		c.v = v
	}
	return err
}

func (c *Core) closeVolume() error {
	if c.v == nil {
		return nil
	}
	v := c.v
	c.v = nil
	return v.Close()
}

// Close commits buffered changes. The Core can be opened again.
func (c *Core) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeVolume()
}

// use returns the open volume, which stays open until done is called.
func (c *Core) use() (v *Volume, done func(), err error) {
	c.mu.RLock()
	if c.v == nil {
		c.mu.RUnlock()
		return nil, nil, &Error{Variant: NotInitialized}
	}
	return c.v, c.mu.RUnlock, nil
}

// Entry is a result of ListDirectory and Stat.
type Entry struct {
	Name    string
	Dir     bool
	Size    uint64
	InodeID uint64
}

// Statistics are numbers of blocks.
type Statistics struct {
	BlockBytes  int
	TotalBlocks uint64
	FreeBlocks  uint64
	Generation  uint64
	Inodes      uint64
}

var (
	errEmptyPath  = errors.New("empty path")
	errIntoItself = errors.New("a directory cannot be moved into itself")
)

// CreateFile creates an empty file.
func (c *Core) CreateFile(path string) error { return c.create(path, false, FileAlreadyExists) }

// CreateDirectory creates an empty directory.
func (c *Core) CreateDirectory(path string) error {
	return c.create(path, true, DirectoryAlreadyExists)
}

// WriteFile writes data at an offset of a file, and enlarges the file if necessary. The data is
// buffered until a flush.
func (c *Core) WriteFile(path string, off uint64, data []byte) error {
	v, done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	if len(data) == 0 {
		return nil // even if the file does not exist
	}
	n, err := v.theFile(path)
	if err != nil {
		return err
	}
	_, err = v.Write(nil, n.ino, off, data, false)
	return translate(err, "")
}

// ReadFile reads up to len(dst) bytes at an offset. It reads fewer only at the end of the file.
func (c *Core) ReadFile(path string, off uint64, dst []byte) (int, error) {
	v, done, err := c.use()
	if err != nil {
		return 0, err
	}
	defer done()
	n, err := v.theFile(path)
	if err != nil {
		return 0, err
	}
	count, err := v.Read(n.ino, off, dst)
	return count, translate(err, "")
}

// Truncate sets the size of a file. The reference implementation has no such operation.
func (c *Core) Truncate(path string, size uint64) error {
	v, done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	n, err := v.theFile(path)
	if err != nil {
		return err
	}
	_, err = v.SetAttr(nil, n.ino, &vfs.SetAttr{Size: &size})
	return translate(err, "")
}

func entryOf(name string, n *node) Entry { return Entry{name, n.dir, n.size, uint64(n.ino)} }

// ListDirectory lists a directory in the order of creation.
func (c *Core) ListDirectory(path string) ([]Entry, error) {
	v, done, err := c.use()
	if err != nil {
		return nil, err
	}
	defer done()
	dirs, name := split(path)
	if name != "" {
		dirs = append(dirs, name)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	d, err := v.walkTo(dirs)
	if err != nil {
		return nil, err
	}
	list := make([]Entry, len(d.order))
	for i, e := range d.order {
		list[i] = entryOf(e.name, e.node)
	}
	return list, nil
}

// Stat describes one file or directory.
func (c *Core) Stat(path string) (Entry, error) {
	v, done, err := c.use()
	if err != nil {
		return Entry{}, err
	}
	defer done()
	if _, name := split(path); name == "" {
		return entryOf("", v.root), nil
	}
	_, n, name, err := v.existing(path)
	if err != nil {
		return Entry{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return entryOf(name, n), n.damage
}

// RemoveFile removes a file or an empty directory.
func (c *Core) RemoveFile(path string) error {
	v, done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	d, _, name, err := v.existing(path)
	if err != nil {
		return err
	}
	ino, err := v.remove(d.ino, name, func(n *node) error {
		if n.dir && (len(n.order) > 0 || n.damage != nil) {
			return &Error{Variant: DirectoryNotEmpty, Name: name, err: vfs.ErrNotEmpty}
		}
		return nil
	})
	if err != nil {
		return translate(err, name)
	}
	v.Forget(ino)
	return nil
}

// Rename moves a file or directory, possibly to another directory. It never replaces an existing
// one.
func (c *Core) Rename(from, to string) error {
	v, done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	if _, name := split(to); name != "" {
		if err := coreName(name); err != nil {
			return err
		}
	}
	if within(to, from) {
		return &Error{Variant: Internal, err: errIntoItself}
	}
	d, n, name, err := v.resolve(from)
	if err != nil {
		return err
	}
	newD, target, newName, err := v.resolve(to)
	switch {
	case err != nil:
		return err
	case target != nil:
		return &Error{Variant: FileAlreadyExists, Name: newName, err: vfs.ErrExist}
	case n == nil:
		return &Error{Variant: FileNotFound, Name: name, err: vfs.ErrNotExist}
	}
	err = v.rename(d.ino, name, newD.ino, newName, false)
	return translate(err, name)
}

// Flush commits, so that everything written before is durable.
func (c *Core) Flush() error {
	v, done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	return translate(v.Sync(vfs.RootIno), "")
}

// Sync is the same as Flush.
func (c *Core) Sync() error { return c.Flush() }

// ScrubFreeBlocks overwrites all free blocks with random bytes.
func (c *Core) ScrubFreeBlocks() error {
	v, done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	return translate(v.ScrubFree(nil), "")
}

// Statistics counts blocks.
func (c *Core) Statistics() (Statistics, error) {
	v, done, err := c.use()
	if err != nil {
		return Statistics{}, err
	}
	defer done()
	return v.Statistics(), nil
}

// Statistics counts blocks.
func (v *Volume) Statistics() Statistics {
	v.mu.Lock()
	defer v.mu.Unlock()
	return Statistics{v.blk.size, v.total, v.freeBlocks(), v.state.pointer.generation, uint64(len(v.nodes))}
}
