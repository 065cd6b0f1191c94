package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// set is a tree, and a volume with the same content.
type set struct {
	name       string
	make       func(ctx context.Context, b *snapBench, tree string) error
	tree       string // on the file system of the work directory
	image, mnt string // the volume
}

// scattered is how many blocks of 4 KiB change between two snapshots of the large file.
const scattered = 655

func (b *snapBench) fileBytes() int64 {
	if b.short {
		return 64 << 20
	}
	return 1 << 30
}

// makeRandom makes one file of random bytes.
func makeRandom(_ context.Context, b *snapBench, tree string) (err error) {
	f, err := os.Create(filepath.Join(tree, "file"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	rng, buf := rand.NewChaCha8([32]byte{1}), make([]byte, 1<<20)
	for n := int64(0); n < b.fileBytes(); n += int64(len(buf)) {
		rng.Read(buf) //nolint:errcheck // never fails
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// makeSource copies the source tree of Go, with its programs.
func makeSource(ctx context.Context, b *snapBench, tree string) error {
	root, err := command(ctx, "go", "env", "GOROOT")
	if err != nil {
		return fmt.Errorf("read the source tree of Go: %w", err)
	}
	from := strings.TrimSpace(root)
	if b.short {
		from = filepath.Join(from, "src", "cmd", "compile")
	}
	_, err = command(ctx, "cp", "-a", from+"/.", tree)
	return err
}

// makeSmall makes small files, 100 in a directory.
func makeSmall(ctx context.Context, b *snapBench, tree string) error {
	files := 100_000
	if b.short {
		files = 2000
	}
	rng, buf := rand.New(rand.NewPCG(1, 1)), make([]byte, 8<<10)
	fill := rand.NewChaCha8([32]byte{2})
	for i := range files {
		dir := filepath.Join(tree, fmt.Sprint("d", i/100))
		if i%100 == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		p := buf[:100+rng.IntN(len(buf)-100)]
		fill.Read(p) //nolint:errcheck // never fails
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), p, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// change is what happens before the second snapshot: writes to the large file, nothing to others.
func (b *snapBench) change(ctx context.Context, s *set, rep int) error {
	if s.name != "random" {
		return nil
	}
	return b.mounted(ctx, s, func() error {
		for _, dir := range []string{s.tree, s.mnt} {
			if err := b.scatter(filepath.Join(dir, "file"), uint64(rep)); err != nil {
				return err
			}
		}
		return nil
	})
}

// scatter overwrites blocks of a file, which are the same for the same seed.
func (b *snapBench) scatter(path string, seed uint64) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	rng, fill, buf := rand.New(rand.NewPCG(seed, 3)), rand.NewChaCha8([32]byte{3, byte(seed)}), make([]byte, 4096)
	for range scattered {
		fill.Read(buf) //nolint:errcheck // never fails
		if _, err := f.WriteAt(buf, rng.Int64N(b.fileBytes()/4096)*4096); err != nil {
			return err
		}
	}
	return f.Sync()
}

// sizeOf is the sum of the lengths of all files in a directory.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
