package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// writeLayer writes the files of each SRC=DEST as a tar file.
func writeLayer(name string, args []string, sbom bool, version string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := &layer{tw: tar.NewWriter(f), seen: map[string]bool{}, sbom: sbom, version: version}
	for _, a := range args {
		src, dest, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("%q is not SRC=DEST", a)
		}
		if err := w.add(src, dest); err != nil {
			return err
		}
	}
	return w.tw.Close()
}

type layer struct {
	tw      *tar.Writer
	seen    map[string]bool // directories
	sbom    bool
	version string // of programs without one
}

func (w *layer) add(src, dest string) error {
	if strings.HasSuffix(dest, "/") && src != "" && !strings.HasPrefix(src, "@") {
		dest += filepath.Base(src)
	}
	dest = strings.TrimPrefix(path.Clean("/"+dest), "/")
	if src == "" {
		return w.dirs(dest)
	}
	if err := w.dirs(path.Dir(dest)); err != nil {
		return err
	}
	if target, ok := strings.CutPrefix(src, "@"); ok {
		return w.entry(dest, &tar.Header{Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, nil)
	}
	real, err := filepath.EvalSymlinks(src) // add the file that SRC links to
	if err != nil {
		return err
	}
	return filepath.WalkDir(real, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(real, p)
		if err != nil {
			return err
		}
		return w.file(p, path.Join(dest, filepath.ToSlash(rel)), d)
	})
}

// file adds one entry of a tree.
func (w *layer) file(p, at string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		return w.dirs(at)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(p)
		if err != nil {
			return err
		}
		return w.entry(at, &tar.Header{Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, nil)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file, a directory or a link", p)
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := w.entry(at, &tar.Header{Typeflag: tar.TypeReg, Mode: modeOf(info.Mode()), Size: info.Size()}, f); err != nil || !w.sbom {
		return err
	}
	return w.bill(p, at)
}

// modeOf returns a mode that does not depend on the umask with which the file was created.
func modeOf(m fs.FileMode) int64 {
	mode := int64(0o644)
	if m&0o111 != 0 {
		mode = 0o755
	}
	if m&fs.ModeSetuid != 0 {
		mode |= 0o4000
	}
	return mode
}

// bill adds the bill of materials of a Go program; other files have none.
func (w *layer) bill(p, at string) error {
	b, err := billOfMaterials(p, w.version)
	if err != nil || b == nil {
		return err
	}
	name := "usr/share/sbom/" + path.Base(at) + ".cdx.json"
	if err := w.dirs(path.Dir(name)); err != nil {
		return err
	}
	return w.entry(name, &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(b))}, bytes.NewReader(b))
}

func (w *layer) dirs(dir string) error {
	if dir == "." || dir == "" || w.seen[dir] {
		return nil
	}
	if err := w.dirs(path.Dir(dir)); err != nil {
		return err
	}
	mode := int64(0o755)
	if dir == "tmp" || dir == "var/tmp" {
		mode = 0o1777
	}
	return w.entry(dir, &tar.Header{Typeflag: tar.TypeDir, Mode: mode}, nil)
}

func (w *layer) entry(at string, h *tar.Header, r io.Reader) error {
	h.Name = at
	if h.Typeflag == tar.TypeDir {
		w.seen[at] = true
		h.Name += "/"
	}
	h.ModTime = time.Unix(0, 0)
	if err := w.tw.WriteHeader(h); err != nil || r == nil {
		return err
	}
	_, err := io.Copy(w.tw, r)
	return err
}
