package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// sourceTree is the source of Go, as an archive in memory (in /dev/shm, if that exists).
type sourceTree struct {
	archive string
	files   int
}

func (t *sourceTree) make(ctx context.Context, work string, short bool) error {
	root, err := command(ctx, "go", "env", "GOROOT")
	if err != nil {
		return fmt.Errorf("read the source tree of Go: %w", err)
	}
	// With -short, a tenth of it is sufficient.
	dir := filepath.Join(strings.TrimSpace(root), "src")
	if short {
		dir = filepath.Join(dir, "cmd", "compile")
	}
	if err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		t.files++
		return err
	}); err != nil {
		return err
	}
	t.archive = filepath.Join(work, "tree.tar")
	_, err = command(ctx, "tar", "--create", "--file", t.archive, "--directory", dir, ".")
	return err
}

func (e *env) tree() string { return e.path("tree") }

func unpack(e *env) error {
	if err := os.RemoveAll(e.tree()); err != nil {
		return err
	}
	if err := os.Mkdir(e.tree(), 0o755); err != nil {
		return err
	}
	// Load the archive into the page cache.
	f, err := os.Open(e.bench.tree.archive)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return errors.Join(err, f.Close())
}

func untar(e *env) error {
	if err := unpack(e); err != nil {
		return err
	}
	start := time.Now()
	_, err := command(e.ctx, "tar", "--extract", "--file", e.bench.tree.archive, "--directory", e.tree())
	e.rate("untar", e.bench.tree.files, start)
	return err
}

func needTree(e *env) error {
	if _, err := os.Stat(e.tree()); err == nil {
		return nil
	}
	if err := unpack(e); err != nil {
		return err
	}
	_, err := command(e.ctx, "tar", "--extract", "--file", e.bench.tree.archive, "--directory", e.tree())
	return err
}

func readTree(e *env) error {
	if err := e.cold(); err != nil {
		return err
	}
	start := time.Now()
	_, err := command(e.ctx, "tar", "--create", "--file", "-", "--directory", e.tree(), ".") // read into our memory
	e.rate("readtree", e.bench.tree.files, start)
	return err
}

func removeTree(e *env) error {
	start := time.Now()
	_, err := command(e.ctx, "rm", "-rf", e.tree())
	e.rate("rmtree", e.bench.tree.files, start)
	return err
}
