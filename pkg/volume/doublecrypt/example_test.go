package doublecrypt_test

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/doublecrypt"
)

// This is the quick start of doublecrypt-core's documentation, step by step.
func Example() {
	// 1. Create a block store in memory. For files and block devices, use device.Open.
	store := device.NewMem(64 * doublecrypt.DefaultBlock)

	// 2. Create the engine from a 32-byte master key, which is overwritten with zeros.
	key, err := crypto.NewDoublecryptKey(bytes.Repeat([]byte{0xaa}, 32))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Erase()

	// 3. Build the file system and format it.
	fs := doublecrypt.NewCore(store, key, doublecrypt.CoreOptions{})
	if err := fs.InitFilesystem(); err != nil {
		fmt.Println(err)
		return
	}

	// 4. Create a file, write, read back.
	err = errors.Join(fs.CreateFile("hello.txt"), fs.WriteFile("hello.txt", 0, []byte("Hello, encrypted world!")))
	if err != nil {
		fmt.Println(err)
		return
	}
	data := make([]byte, 4096)
	n, err := fs.ReadFile("hello.txt", 0, data)
	fmt.Printf("%s %v\n", data[:n], err)

	// Synced data is present when the volume is opened again, by this package or the reference
	// implementation.
	if err := errors.Join(fs.Sync(), fs.Close()); err != nil {
		fmt.Println(err)
		return
	}
	again := doublecrypt.NewCore(store, key, doublecrypt.CoreOptions{})
	if err := again.Open(); err != nil {
		fmt.Println(err)
		return
	}
	entries, err := again.ListDirectory("")
	for _, e := range entries {
		fmt.Println(e.Name, e.Size, "bytes")
	}
	fmt.Println(errors.Join(err, again.Close()))
	// Output:
	// Hello, encrypted world! <nil>
	// hello.txt 23 bytes
	// <nil>
}

// This is the rest of that documentation: directories, names, and errors with the reference
// implementation's codes.
func ExampleCore() {
	key, err := crypto.NewDoublecryptKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Erase()
	fs := doublecrypt.NewCore(device.NewMem(256*4096), key, doublecrypt.CoreOptions{BlockBytes: 4096})
	err = errors.Join(
		fs.InitFilesystem(),
		fs.CreateDirectory("docs"),
		fs.CreateFile("docs/draft.txt"),
		fs.WriteFile("docs/draft.txt", 10, []byte("at ten")), // zeros before it
		fs.Rename("docs/draft.txt", "docs/final.txt"),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	e, err := fs.Stat("docs/final.txt")
	fmt.Println(e.Name, e.Size, err)

	data := make([]byte, 16)
	n, err := fs.ReadFile("docs/final.txt", 0, data)
	fmt.Printf("%q %v\n", data[:n], err)

	err = fs.CreateFile("docs/final.txt")
	fmt.Println(doublecrypt.CodeOf(err), err)
	err = fs.RemoveFile("docs")
	fmt.Println(doublecrypt.CodeOf(err), err)
	fmt.Println(errors.Join(fs.RemoveFile("docs/final.txt"), fs.RemoveFile("docs"), fs.Close()))
	// Output:
	// final.txt 16 <nil>
	// "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00at ten" <nil>
	// -2 file already exists: "final.txt": file exists
	// -12 directory not empty: "docs": directory not empty
	// <nil>
}
