package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// A sealed volume without a mount: format, open, create a file, write, sync, and
// read it back from what is on the device.
func Example() {
	dev := device.NewMem(64 << 20)                         // device.Open has files and block devices
	kek, err := crypto.NewKey(bytes.Repeat([]byte{7}, 32)) // zeros afterwards
	if err != nil {
		fmt.Println(err)
		return
	}
	key := crypto.SecretCredential(kek)
	defer key.Erase()
	if err := volume.Format(dev, volume.FormatOptions{Recipient: key}); err != nil {
		fmt.Println(err)
		return
	}

	v, err := volume.Open(dev, volume.Options{Credential: key})
	if err != nil {
		fmt.Println(err)
		return
	}
	req := &vfs.Req{UID: 1000, GID: 1000}
	file, err := v.Mknod(req, vfs.RootIno, "hello.txt", syscall.S_IFREG|0o644, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	n, err := v.Write(req, file.Ino, 0, []byte("Hello, sealed world!"), false)
	fmt.Println(n, "bytes written,", err)
	// Durable from here on.
	if err := errors.Join(v.Sync(file.Ino), v.Close()); err != nil {
		fmt.Println(err)
		return
	}

	v, err = volume.Open(dev, volume.Options{Credential: key, ReadOnly: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	file, err = v.Lookup(vfs.RootIno, "hello.txt")
	if err != nil {
		fmt.Println(err)
		return
	}
	data := make([]byte, file.Size)
	n, err = v.Read(file.Ino, 0, data)
	fmt.Printf("%s %v %v\n", data[:n], fs.FileMode(file.Mode&0o777), err)
	fmt.Println(v.Close())
	// Output:
	// 20 bytes written, <nil>
	// Hello, sealed world! -rw-r--r-- <nil>
	// <nil>
}
