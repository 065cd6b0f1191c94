package main

// cgo uses these names of pointers to const in the prototypes that it generates. The prototypes
// must match doublecrypt.h; a test compiles both together.

// #include <stddef.h>
// #include <stdint.h>
// #include <stdlib.h>
// typedef struct FsHandle FsHandle;
// typedef const char text_t;
// typedef const uint8_t bytes_t;
import "C"

import (
	"encoding/json"
	"errors"
	"os"
	"sync"
	"unicode/utf8"
	"unsafe"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func main() {} // required by the build, never called

// handle is one file system.
type handle struct {
	core *doublecrypt.Core
	dev  device.Device
	key  *crypto.DoublecryptKey
	use  sync.RWMutex // every call holds it for reading, fs_destroy for writing
	dead bool
}

// handles maps the address of a handle to its file system. Each address is one byte of C memory
// that is never freed, so no address is ever used twice.
var (
	handlesMu sync.Mutex
	handles   = map[uintptr]*handle{}
)

// maxHandles limits the memory that is never freed.
const maxHandles = 1 << 24

var handlesMade int

func publish(h *handle) *C.FsHandle {
	handlesMu.Lock()
	defer handlesMu.Unlock()
	if handlesMade == maxHandles {
		return nil
	}
	handlesMade++
	p := C.malloc(1)
	handles[uintptr(p)] = h
	return (*C.FsHandle)(p)
}

// acquire finds a handle and prevents its destruction until release.
func acquire(p *C.FsHandle) (h *handle, release func()) {
	handlesMu.Lock()
	h = handles[uintptr(unsafe.Pointer(p))]
	handlesMu.Unlock()
	if h == nil {
		return nil, nil
	}
	h.use.RLock()
	if h.dead {
		h.use.RUnlock()
		return nil, nil
	}
	return h, h.use.RUnlock
}

const invalid = C.int32_t(doublecrypt.CodeInvalidArgument)

// with calls f with the file system of a handle.
func with(p *C.FsHandle, f func(c *doublecrypt.Core) error) C.int32_t {
	h, release := acquire(p)
	if h == nil {
		return invalid
	}
	defer release()
	return C.int32_t(doublecrypt.CodeOf(f(h.core)))
}

// text copies a C string. It returns false for NULL and for strings that are not UTF-8.
func text(s *C.text_t) (string, bool) {
	if s == nil {
		return "", false
	}
	t := C.GoString((*C.char)(unsafe.Pointer(s)))
	return t, utf8.ValidString(t)
}

func withPath(p *C.FsHandle, path *C.text_t, f func(c *doublecrypt.Core, path string) error) C.int32_t {
	t, ok := text(path)
	if !ok {
		return invalid
	}
	return with(p, func(c *doublecrypt.Core) error { return f(c, t) })
}

// data returns C memory as a slice, which is valid during the call.
func data(p *C.bytes_t, n C.size_t) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n))
}

// maxBytes limits the size that one call may request. It is more than any machine has.
const maxBytes = 1 << 46

func deriveKey(p *C.bytes_t, n C.size_t) (*crypto.DoublecryptKey, error) {
	if p == nil || n == 0 || n > 1<<20 {
		return nil, errors.New("the master key is missing")
	}
	return crypto.NewDoublecryptKey(append([]byte(nil), data(p, n)...)) // it overwrites the copy
}

func newHandle(dev device.Device, totalBlocks uint64, block int, p *C.bytes_t, n C.size_t) *C.FsHandle {
	key, err := deriveKey(p, n)
	if err != nil {
		return nil
	}
	core := doublecrypt.NewCore(dev, key, doublecrypt.CoreOptions{BlockBytes: block, TotalBlocks: totalBlocks})
	h := publish(&handle{core: core, dev: dev, key: key})
	if h == nil {
		key.Erase()
	}
	return h
}

// maxMemoryBlocks limits volumes in memory to 1 TiB of address space. Only blocks that are written
// use memory.
const maxMemoryBlocks = 1 << 24

//export fs_create
func fs_create(totalBlocks C.uint64_t, key *C.bytes_t, keyLen C.size_t) *C.FsHandle {
	if totalBlocks == 0 || totalBlocks > maxMemoryBlocks {
		return nil
	}
	dev := device.NewMem(int64(totalBlocks) * doublecrypt.DefaultBlock)
	return newHandle(dev, 0, doublecrypt.DefaultBlock, key, keyLen)
}

//export fs_create_disk
func fs_create_disk(path *C.text_t, totalBlocks C.uint64_t, blockSize C.uint32_t, createNew C.int32_t, key *C.bytes_t, keyLen C.size_t) *C.FsHandle {
	name, ok := text(path)
	if !ok || key == nil || keyLen == 0 {
		return nil
	}
	block := blockBytes(blockSize)
	if createNew != 0 {
		if totalBlocks == 0 || uint64(totalBlocks) > uint64(1<<62)/uint64(block) || makeFile(name, int64(totalBlocks)*int64(block)) != nil {
			return nil
		}
	}
	return openPath(name, uint64(totalBlocks), block, createNew != 0, key, keyLen)
}

//export fs_create_device
func fs_create_device(path *C.text_t, totalBlocks C.uint64_t, blockSize C.uint32_t, initialize C.int32_t, key *C.bytes_t, keyLen C.size_t) *C.FsHandle {
	name, ok := text(path)
	if !ok || key == nil || keyLen == 0 {
		return nil
	}
	return openPath(name, uint64(totalBlocks), blockBytes(blockSize), initialize != 0, key, keyLen)
}

//export fs_create_network
func fs_create_network(addr, serverName, caCertPath *C.text_t, cacheBlocks C.uint32_t, token *C.bytes_t, tokenLen C.size_t, key *C.bytes_t, keyLen C.size_t) *C.FsHandle {
	return nil
}

func blockBytes(n C.uint32_t) int {
	if n == 0 {
		return doublecrypt.DefaultBlock
	}
	return int(n)
}

// makeFile creates an image file of the given size.
func makeFile(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func openPath(name string, totalBlocks uint64, block int, fill bool, key *C.bytes_t, keyLen C.size_t) *C.FsHandle {
	dev, err := device.Open(name, device.OpenOptions{})
	if err != nil {
		return nil
	}
	var h *C.FsHandle
	if !fill || doublecrypt.FillRandom(dev, nil, nil) == nil {
		h = newHandle(dev, totalBlocks, block, key, keyLen)
	}
	if h == nil {
		_ = dev.Close() // the interface cannot return the cause
	}
	return h
}

//export fs_destroy
func fs_destroy(p *C.FsHandle) {
	handlesMu.Lock()
	h := handles[uintptr(unsafe.Pointer(p))]
	delete(handles, uintptr(unsafe.Pointer(p)))
	handlesMu.Unlock()
	if h == nil {
		return
	}
	h.use.Lock() // wait for running calls to end
	defer h.use.Unlock()
	h.dead = true
	_ = h.core.Close() // as in the reference implementation, fs_destroy reports no errors; fs_sync does
	h.key.Erase()
	_ = h.dev.Close() // Close has synced it
}

//export fs_init_filesystem
func fs_init_filesystem(p *C.FsHandle) C.int32_t { return with(p, (*doublecrypt.Core).InitFilesystem) }

//export fs_open
func fs_open(p *C.FsHandle) C.int32_t { return with(p, (*doublecrypt.Core).Open) }

//export fs_create_file
func fs_create_file(p *C.FsHandle, path *C.text_t) C.int32_t {
	return withPath(p, path, (*doublecrypt.Core).CreateFile)
}

//export fs_create_dir
func fs_create_dir(p *C.FsHandle, path *C.text_t) C.int32_t {
	return withPath(p, path, (*doublecrypt.Core).CreateDirectory)
}

//export fs_remove_file
func fs_remove_file(p *C.FsHandle, path *C.text_t) C.int32_t {
	return withPath(p, path, (*doublecrypt.Core).RemoveFile)
}

//export fs_rename
func fs_rename(p *C.FsHandle, oldPath, newPath *C.text_t) C.int32_t {
	to, ok := text(newPath)
	if !ok {
		return invalid
	}
	return withPath(p, oldPath, func(c *doublecrypt.Core, from string) error { return c.Rename(from, to) })
}

// pieceBytes is the maximum number of bytes in one change of the volume.
const pieceBytes = 1 << 20

//export fs_write_file
func fs_write_file(p *C.FsHandle, path *C.text_t, offset C.uint64_t, from *C.bytes_t, n C.size_t) C.int32_t {
	if from == nil && n != 0 || n > maxBytes {
		return invalid
	}
	return withPath(p, path, func(c *doublecrypt.Core, path string) error {
		off, rest := uint64(offset), data(from, n)
		if off+uint64(len(rest)) < off {
			return vfs.ErrFileTooBig
		}
		for len(rest) > pieceBytes {
			if err := c.WriteFile(path, off, rest[:pieceBytes]); err != nil {
				return err
			}
			off, rest = off+pieceBytes, rest[pieceBytes:]
		}
		return c.WriteFile(path, off, rest)
	})
}

//export fs_read_file
func fs_read_file(p *C.FsHandle, path *C.text_t, offset C.uint64_t, n C.size_t, out *C.uint8_t, outLen *C.size_t) C.int32_t {
	if out == nil || outLen == nil || n > maxBytes {
		return invalid
	}
	return withPath(p, path, func(c *doublecrypt.Core, path string) error {
		count, err := c.ReadFile(path, uint64(offset), data(out, n))
		*outLen = C.size_t(count)
		return err
	})
}

// listed is an entry of the JSON.
type listed struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Size    uint64 `json:"size"`
	InodeID uint64 `json:"inode_id"`
}

func list(p *C.FsHandle, path string, outError *C.int32_t) *C.char {
	var result *C.char
	code := with(p, func(c *doublecrypt.Core) error {
		entries, err := c.ListDirectory(path)
		if err != nil {
			return err
		}
		all := make([]listed, len(entries))
		for i, e := range entries {
			all[i] = listed{e.Name, "File", e.Size, e.InodeID}
			if e.Dir {
				all[i].Kind = "Directory"
			}
		}
		b, err := json.Marshal(all)
		if err == nil {
			result = C.CString(string(b))
		}
		return err
	})
	if outError != nil {
		*outError = code
	}
	return result
}

//export fs_list_root
func fs_list_root(p *C.FsHandle, outError *C.int32_t) *C.char { return list(p, "", outError) }

//export fs_list_dir
func fs_list_dir(p *C.FsHandle, path *C.text_t, outError *C.int32_t) *C.char {
	t, ok := text(path)
	if !ok {
		if outError != nil {
			*outError = invalid
		}
		return nil
	}
	return list(p, t, outError)
}

//export fs_stat
func fs_stat(p *C.FsHandle, path *C.text_t, size *C.uint64_t, kind *C.int32_t, inode *C.uint64_t) C.int32_t {
	return withPath(p, path, func(c *doublecrypt.Core, path string) error {
		e, err := c.Stat(path)
		if err != nil {
			return err
		}
		if size != nil {
			*size = C.uint64_t(e.Size)
		}
		if kind != nil {
			*kind = 0
			if e.Dir {
				*kind = 1
			}
		}
		if inode != nil {
			*inode = C.uint64_t(e.InodeID)
		}
		return nil
	})
}

//export fs_flush
func fs_flush(p *C.FsHandle) C.int32_t { return with(p, (*doublecrypt.Core).Flush) }

//export fs_sync
func fs_sync(p *C.FsHandle) C.int32_t { return with(p, (*doublecrypt.Core).Sync) }

//export fs_scrub_free_blocks
func fs_scrub_free_blocks(p *C.FsHandle) C.int32_t {
	return with(p, (*doublecrypt.Core).ScrubFreeBlocks)
}

//export fs_blake3
func fs_blake3(from *C.bytes_t, n C.size_t, out *C.uint8_t) C.int32_t {
	if from == nil || out == nil || n > maxBytes {
		return invalid
	}
	sum := crypto.Blake3(data(from, n))
	copy(data(out, 32), sum[:])
	return 0
}

//export fs_free_string
func fs_free_string(s *C.char) { C.free(unsafe.Pointer(s)) }
