package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// entry is one file of an archive.
type entry struct {
	name string
	mode int64
	link string // target of a symbolic link
	data []byte
	file string // file with the content, if it is not in data
}

// writeTar writes entries in the given order. The output depends only on their content.
func writeTar(w io.Writer, entries []entry) error {
	tw := tar.NewWriter(w)
	for _, e := range entries {
		if err := writeEntry(tw, e); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, e entry) (err error) {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Size: int64(len(e.data)),
		ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if e.link != "" {
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
	}
	if e.file == "" {
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err = tw.Write(e.data)
		return err
	}
	f, err := os.Open(e.file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

// writeTarFile writes a tar file, which is compressed if its name says so.
func writeTarFile(name string, entries []entry) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if !strings.HasSuffix(name, "gz") {
		return writeTar(f, entries)
	}
	z, err := gzip.NewWriterLevel(f, gzip.DefaultCompression)
	if err != nil {
		return err
	}
	if err := writeTar(z, entries); err != nil {
		return err
	}
	return z.Close()
}

// tree lists the files below a directory by name.
func tree(dir, under string) (list []entry, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", p)
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		list = append(list, entry{name: under + filepath.ToSlash(rel), mode: 0o644, file: p})
		return nil
	})
	return list, err
}

// readTar calls each for every regular file of an archive.
func readTar(r io.Reader, each func(name string, mode int64, r io.Reader) error) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := each(h.Name, h.Mode, tr); err != nil {
			return err
		}
	}
}

// unpack writes the files of an archive below a directory.
func unpack(name, dir string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	err = readTar(f, func(at string, _ int64, r io.Reader) error {
		if !filepath.IsLocal(at) {
			return fmt.Errorf("the name %q leads out of the archive", at)
		}
		p := filepath.Join(dir, at)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		out, err := os.Create(p)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		return errors.Join(err, out.Close())
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
