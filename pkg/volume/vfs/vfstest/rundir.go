package vfstest

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func readDir(f *fixture) {
	want := make(map[string]vfs.Ino)
	for i := range 1000 {
		name := fmt.Sprintf("name-%d-%s", i, strings.Repeat("x", i%200))
		want[name] = f.file(vfs.RootIno, name, "")
	}
	want["d"] = f.dir(vfs.RootIno, "d")
	for _, step := range []int{1, 7, 5000} {
		seen := make(map[string]bool)
		for cookie := uint64(0); ; {
			n := 0
			f.noErr(f.fs.ReadDir(vfs.RootIno, cookie, false, func(d vfs.Dirent, a *vfs.Attr) bool {
				if n == step {
					return false
				}
				n++
				if a != nil {
					f.Error("attributes that were not asked for")
				}
				if d.Cookie == 0 || d.Cookie > vfs.MaxCookie {
					f.Fatalf("cookie %d", d.Cookie)
				}
				if seen[d.Name] || want[d.Name] != d.Ino {
					f.Fatalf("entry %q, inode %d", d.Name, d.Ino)
				}
				if typ := uint32(syscall.S_IFREG); d.Name != "d" && d.Type != typ {
					f.Fatalf("type %o", d.Type)
				}
				seen[d.Name] = true
				cookie = d.Cookie
				return true
			}))
			if n == 0 {
				break
			}
		}
		if len(seen) != len(want) {
			f.Errorf("step %d: %d of %d entries", step, len(seen), len(want))
		}
	}
	err := f.fs.ReadDir(want["name-0-"], 0, false, func(vfs.Dirent, *vfs.Attr) bool { return true })
	f.wantErr("a file", err, vfs.ErrNotDir)
}

func readDirPlus(f *fixture) {
	f.file(vfs.RootIno, "f", "content")
	f.dir(vfs.RootIno, "d")
	n := 0
	var got []vfs.Attr
	var names []string
	f.noErr(f.fs.ReadDir(vfs.RootIno, 0, true, func(d vfs.Dirent, a *vfs.Attr) bool {
		n++
		if a == nil || a.Ino != d.Ino {
			f.Errorf("%q: %+v", d.Name, a)
			return true
		}
		got, names = append(got, *a), append(names, d.Name)
		return true
	}))
	for i, name := range names {
		if a := f.got(f.fs.Lookup(vfs.RootIno, name)); a != got[i] {
			f.Errorf("%q: %+v, lookup %+v", name, got[i], a)
		}
	}
	if n != 2 {
		f.Errorf("%d entries", n)
	}
}

func readDirWhileChanging(f *fixture) {
	const stays = 500
	for i := range stays {
		f.file(vfs.RootIno, fmt.Sprint("stays", i), "")
		f.file(vfs.RootIno, fmt.Sprint("goes", i), "")
	}
	seen := make(map[string]int)
	cookie, round := uint64(0), 0
	for {
		n := 0
		f.noErr(f.fs.ReadDir(vfs.RootIno, cookie, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
			if n == 10 {
				return false
			}
			n++
			seen[d.Name]++
			cookie = d.Cookie
			return true
		}))
		if n == 0 {
			break
		}
		if round < stays {
			f.noErr(f.fs.Unlink(root, vfs.RootIno, fmt.Sprint("goes", round)))
			f.file(vfs.RootIno, fmt.Sprint("comes", round), "")
			f.noErr(f.fs.Rename(root, vfs.RootIno, fmt.Sprint("goes", stays-1-round), vfs.RootIno, fmt.Sprint("renamed", round), 0))
			// An entry that is replaced during the listing is seen exactly once.
			f.file(vfs.RootIno, "tmp", "")
			f.noErr(f.fs.Rename(root, vfs.RootIno, "tmp", vfs.RootIno, fmt.Sprint("stays", round), 0))
			round++
		}
		if round >= stays/2 {
			round = stays
		}
	}
	for i := range stays {
		if n := seen[fmt.Sprint("stays", i)]; n != 1 {
			f.Errorf("entry %d seen %d times", i, n)
		}
	}
	for name, n := range seen {
		if n > 1 {
			f.Errorf("%s seen %d times", name, n)
		}
	}
}
