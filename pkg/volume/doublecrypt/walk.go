package doublecrypt

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Problem is a problem that was found in a volume.
type Problem struct {
	Where string // an inode or a slot, never a name
	What  string
}

// maxProblems limits the lists of problems.
const maxProblems = 1000

// bitset is a set of block numbers.
type bitset []uint64

func newBitset(n uint64) bitset     { return make(bitset, (n+63)/64) }
func (s bitset) has(id uint64) bool { return s[id/64]&(1<<(id%64)) != 0 }
func (s bitset) add(id uint64)      { s[id/64] |= 1 << (id % 64) }

// walker reads a whole tree without recursion: inodes, pages and maps. It reads each block at most
// once.
type walker struct {
	blk   *blocks
	key   *crypto.DoublecryptKey
	chunk uint64
	used  bitset
	// claimed is the number of blocks in used.
	claimed uint64
	// skip contains inodes whose subtrees are skipped, because another walk has read them.
	skip bitset
	// data, if set, is called for each file with its map.
	data  func(n *node, list []extent)
	nodes map[vfs.Ino]*node
	// depths counts directories by depth. The depth of directories that were not visited yet is in
	// todo.
	depths []int
	todo   []visit
	buf    []byte

	problems []Problem
	count    int
	first    error
	notes    []Problem // problems without a loss of data
	hidden   int       // number of names that vfs does not show
}

type visit struct {
	n     *node
	depth int
}

func newWalker(b *blocks, key *crypto.DoublecryptKey) *walker {
	w := &walker{blk: b, key: key, used: newBitset(b.count), nodes: map[vfs.Ino]*node{}, buf: b.buffer(1)}
	if b.size > chunkLess {
		w.chunk = uint64(b.size - chunkLess)
	}
	for _, id := range []uint64{headerBlock, slotBlockA, slotBlockB} {
		w.used.add(id)
	}
	return w
}

// problem records damage that makes n unreadable.
func (w *walker) problem(n *node, err error) {
	w.note(fmt.Sprintf("inode %d", n.ino), err)
	if n.damage == nil {
		n.damage = err
	}
}

func (w *walker) note(where string, err error) {
	w.count++
	if len(w.problems) < maxProblems {
		w.problems = append(w.problems, Problem{where, err.Error()})
	}
	if w.first == nil {
		w.first = err
	}
}

// claim marks a block as used.
func (w *walker) claim(id uint64) error {
	if id < firstObject || id >= w.blk.count {
		return &Error{Variant: BlockOutOfRange, Value: id, err: vfs.ErrCorrupt}
	}
	if w.used.has(id) {
		return corrupt(Deserialization, "tree", fmt.Errorf("block %d is used twice", id))
	}
	w.used.add(id)
	w.claimed++
	return nil
}

func (w *walker) object(id uint64, k kind) ([]byte, error) {
	if err := w.claim(id); err != nil {
		return nil, err
	}
	return w.blk.object(id, w.key, k, w.buf)
}

// inode reads the inode of an entry or of the superblock.
func (w *walker) inode(n *node) error {
	b, err := w.object(n.block, kindInode)
	if err != nil {
		return err
	}
	i, err := decodeInode(b)
	if err != nil {
		return err
	}
	if i.id != uint64(n.ino) || i.dir != n.dir {
		return corrupt(Deserialization, "inode", fmt.Errorf("block %d holds inode %d instead", n.block, i.id))
	}
	n.size, n.created, n.modified, n.body = i.size, i.created, i.modified, i.extents
	if n.dir {
		n.size, n.body = 0, i.page
	} else if n.size > vfs.MaxFileBytes {
		return corrupt(Deserialization, "inode", fmt.Errorf("invalid size %d", n.size))
	}
	return nil
}

// rootNode reads the root directory's inode.
func (w *walker) rootNode(block uint64) (*node, error) {
	n := &node{ino: vfs.RootIno, dir: true, block: block, names: map[string]*dirent{}}
	return n, w.inode(n)
}

// tree reads everything below the root, whose inode has been read.
func (w *walker) tree(root *node) {
	w.nodes[root.ino] = root
	w.todo = append(w.todo, visit{root, 0})
	for len(w.todo) > 0 {
		t := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		w.directory(t.n, t.depth)
	}
}

func (w *walker) directory(n *node, depth int) {
	for len(w.depths) <= depth {
		w.depths = append(w.depths, 0)
	}
	w.depths[depth]++
	b, err := w.object(n.body, kindDirectory)
	if err != nil {
		w.problem(n, err)
		return
	}
	entries, err := decodePage(b)
	if err != nil {
		w.problem(n, err)
		return
	}
	for i := range entries {
		if err := w.child(n, &entries[i], depth); err != nil {
			w.note(fmt.Sprintf("directory %d", n.ino), err) // the other entries can be used
		}
	}
}

// child adds an entry to the directory.
func (w *walker) child(d *node, e *entry, depth int) error {
	if err := checkStoredName(e.name); err != nil {
		return err
	}
	if d.names[e.name] != nil {
		return corrupt(Deserialization, "directory page", errors.New("two entries with the same name"))
	}
	if hidden(e.name) {
		w.hidden++
	}
	if e.id == 0 || e.id >= 1<<63 || w.nodes[vfs.Ino(e.id)] != nil {
		return corrupt(Deserialization, "directory page", fmt.Errorf("an entry refers to inode %d, which is invalid or has another entry", e.id))
	}
	n := &node{ino: vfs.Ino(e.id), dir: e.dir, parent: d, block: e.block}
	if n.dir {
		n.names = map[string]*dirent{}
	}
	d.cookie++
	n.entry = &dirent{name: e.name, cookie: d.cookie, node: n}
	d.names[e.name] = n.entry
	d.order = append(d.order, n.entry)
	d.bytes += e.encodedLen() + varintLen(e.block)
	if n.dir {
		d.subdirs++
	}
	w.nodes[n.ino] = n
	if w.skip != nil && n.block < w.blk.count && w.skip.has(n.block) {
		return nil
	}
	if err := w.inode(n); err != nil {
		w.problem(n, err)
		return nil
	}
	if n.dir {
		w.todo = append(w.todo, visit{n, depth + 1})
		return nil
	}
	list, err := w.extents(n)
	if err != nil {
		w.problem(n, err)
		return nil
	}
	n.used = uint64(len(list))
	if w.data != nil {
		w.data(n, list)
	}
	return nil
}

// extents reads a file's map.
func (w *walker) extents(n *node) ([]extent, error) {
	if n.body == null {
		return nil, nil
	}
	if err := w.claim(n.body); err != nil {
		return nil, err
	}
	list, err := readExtents(w.blk, w.key, n.body, n.size, w.chunk, w.buf)
	if n.size == 0 && errors.Is(err, vfs.ErrCorrupt) {
		// The reference implementation would not notice, and no data is lost.
		if len(w.notes) < maxProblems {
			w.notes = append(w.notes, Problem{fmt.Sprintf("inode %d", n.ino), "an empty file without a valid extent map: " + err.Error()})
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for i := range list {
		if err := w.claim(list[i].block); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// readExtents reads a map, and checks that it is valid for a file of that size.
func readExtents(b *blocks, key *crypto.DoublecryptKey, id, size, chunk uint64, buf []byte) ([]extent, error) {
	plain, err := b.object(id, key, kindExtents, buf)
	if err != nil {
		return nil, err
	}
	list, err := decodeExtents(plain)
	if err != nil {
		return nil, err
	}
	if len(list) > 0 && (chunk == 0 || list[len(list)-1].index >= chunksOf(size, chunk)) {
		return nil, corrupt(Deserialization, "extent map", errors.New("a chunk beyond the end of the file"))
	}
	return list, nil
}

func chunksOf(size, chunk uint64) uint64 {
	if chunk == 0 || size == 0 {
		return 0
	}
	return (size-1)/chunk + 1
}

// checkStoredName refuses names that no release of the reference implementation stores.
func checkStoredName(name string) error {
	if name == "" || len(name) > vfs.MaxNameBytes || strings.ContainsAny(name, "/\x00") {
		return corrupt(Deserialization, "directory page", errors.New("invalid name"))
	}
	return nil
}
