package atomicfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealvol/sealvol/pkg/atomicfile"
)

func ExampleWrite() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	name := filepath.Join(dir, "state")
	for _, content := range []string{"one", "two"} {
		if err := atomicfile.Write(name, []byte(content), atomicfile.Options{}); err != nil {
			panic(err)
		}
	}
	err = atomicfile.Write(name, []byte("three"), atomicfile.Options{New: true})
	b, _ := os.ReadFile(name)
	fmt.Println(string(b), errors.Is(err, fs.ErrExist))
	// Output: two true
}
