package walk_test

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

func ExampleWalker_Walk() {
	fs, req := vfstest.NewMemFS(), &vfs.Req{}
	dir, err := fs.Mkdir(req, vfs.RootIno, "etc", 0o755)
	if err != nil {
		panic(err)
	}
	for name, text := range map[string]string{"hosts": "127.0.0.1 localhost\n", "motd": "hello\n"} {
		a, err := fs.Mknod(req, dir.Ino, name, unix.S_IFREG|0o644, 0)
		if err != nil {
			panic(err)
		}
		if _, err := fs.Write(req, a.Ino, 0, []byte(text), false); err != nil {
			panic(err)
		}
	}
	root, err := walk.Lookup(fs, "/", true)
	if err != nil {
		panic(err)
	}
	w := walk.Walker{FS: fs}
	err = w.Walk(root, func(e *walk.Entry) error {
		fmt.Println(walk.KindName(e.Kind()), e.Path)
		return nil
	})
	if err != nil {
		panic(err)
	}
	motd, err := walk.Lookup(fs, "/etc/motd", true)
	if err != nil {
		panic(err)
	}
	if err := walk.ReadFile(fs, motd.Attr.Ino, os.Stdout, make([]byte, walk.ReadBytes)); err != nil {
		panic(err)
	}
	// Output:
	// directory /
	// directory /etc
	// file /etc/hosts
	// file /etc/motd
	// hello
}
