package chunkstore_test

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// This is the disk-based store of the reference implementation's documentation. When EncryptTo
// returns, the chunks are durable. A second process may use the directory.
func ExampleOpenDir() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()

	disk, err := chunkstore.OpenDir(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = disk.Close() }()
	chunks := chunkstore.NewChunks(disk, selfenc.SE31)

	dataMap, err := selfenc.EncryptTo(ctx, selfenc.SE31, chunks, bytes.NewReader([]byte("kept on a disk")), selfenc.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range dataMap.Chunks {
		s := c.DstHash.String()
		info, err := os.Stat(dir + "/se31/" + s[:2] + "/" + s)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(info.Size(), "bytes for", c.SrcBytes)
	}

	r, err := selfenc.Open(ctx, selfenc.SE31, chunks, dataMap, selfenc.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var back bytes.Buffer
	err = r.Copy(ctx, &back, 0, r.Size())
	fmt.Println(back.String(), err)
	// Output:
	// 16 bytes for 4
	// 16 bytes for 4
	// 16 bytes for 6
	// kept on a disk <nil>
}
