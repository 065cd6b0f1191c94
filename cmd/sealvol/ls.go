package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

func lsCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "ls --key-file FILE [--json] DEVICE [PATH...]",
		Short: "List files of a volume without mounting it",
		Long: `List each PATH in the volume (default: /) and everything below it, without mounting
the volume. If a PATH ends in a symbolic link, the link is listed, not followed.

Nothing is written to the device. Changes that are only in the log are listed, too, and
the next mount replays them. Directories with up to 65536 entries are sorted by name.

With --json, the list is an array with one object per line. Regular files have the
SHA-256 of their contents. This reads all data, so it also finds damage. Times are UTC.`,
		Example: `  sealvol ls --key-file vol.key vol.img
  sealvol ls --key-file vol.key --json vol.img /data | jq -r '.[] | select(.type == "file") | .sha256 + "  " + .path'`,
		Args: args(1, -1, "a DEVICE and any number of PATHs"),
		RunE: func(c *cobra.Command, a []string) error {
			v, end, err := openFS(a[0], &key)
			if err != nil {
				return err
			}
			defer end()
			paths := a[1:]
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			l := newLister(v, c.OutOrStdout(), asJSON)
			for _, p := range paths {
				if err = l.list(p); err != nil {
					break
				}
			}
			return errors.Join(err, l.end())
		},
	}
	key.register(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON, with checksums of contents")
	return c
}

// lister prints entries as they are found.
type lister struct {
	fs    vfs.Reader
	out   *bufio.Writer
	json  bool
	count int
	buf   []byte
}

func newLister(fs vfs.Reader, w io.Writer, asJSON bool) *lister {
	l := &lister{fs: fs, out: bufio.NewWriter(w), json: asJSON, buf: make([]byte, walk.ReadBytes)}
	if asJSON {
		say(l.out, "[") // a bufio.Writer keeps its error for Flush
	}
	return l
}

func (l *lister) list(p string) error {
	e, err := walk.Lookup(l.fs, p, false)
	if err != nil {
		return err
	}
	print := l.text
	if l.json {
		print = l.object
	}
	return (&walk.Walker{FS: l.fs}).Walk(e, print)
}

// end closes the JSON array, even after an error.
func (l *lister) end() error {
	if l.json {
		say(l.out, "\n]\n")
	}
	return l.out.Flush()
}

// listEntry is one object of ls --json.
type listEntry struct {
	Path string `json:"path"`
	// PathBytes is the path in base64 if it is not valid UTF-8.
	PathBytes string `json:"pathBytes,omitempty"`
	Type      string `json:"type"`
	Size      uint64 `json:"size"`
	Mode      string `json:"mode"` // permission bits, octal
	UID       uint32 `json:"uid"`
	GID       uint32 `json:"gid"`
	MTime     string `json:"mtime"` // RFC 3339 with nanoseconds, UTC
	SHA256    string `json:"sha256,omitempty"`
	Target    string `json:"target,omitempty"`
}

func (l *lister) object(e *walk.Entry) error {
	a := &e.Attr
	o := listEntry{Path: e.Path, Type: walk.KindName(e.Kind()), Size: a.Size, Mode: fmt.Sprintf("%04o", a.Mode&0o7777), UID: a.UID, GID: a.GID,
		MTime: time.Unix(a.Mtime.Sec, int64(a.Mtime.Nsec)).UTC().Format(time.RFC3339Nano)}
	if !utf8.ValidString(e.Path) {
		o.PathBytes = base64.StdEncoding.EncodeToString([]byte(e.Path))
	}
	var err error
	switch e.Kind() {
	case unix.S_IFREG:
		o.SHA256, err = l.sum(e)
	case unix.S_IFLNK:
		o.Target, err = l.fs.Readlink(a.Ino)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", printable(e.Path), err)
	}
	b, err := json.Marshal(&o)
	if err != nil {
		return err
	}
	comma := ""
	if l.count++; l.count > 1 {
		comma = ","
	}
	_, err = fmt.Fprintf(l.out, "%s\n %s", comma, b)
	return err
}

func (l *lister) sum(e *walk.Entry) (string, error) {
	h := sha256.New()
	if err := walk.ReadFile(l.fs, e.Attr.Ino, h, l.buf); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (l *lister) text(e *walk.Entry) error {
	a := &e.Attr
	name := printable(e.Path)
	if e.Kind() == unix.S_IFLNK {
		target, err := l.fs.Readlink(a.Ino)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		name += " -> " + printable(target)
	}
	_, err := fmt.Fprintf(l.out, "%s %5d %5d %12d %s %s\n", modeString(a.Mode), a.UID, a.GID, a.Size,
		time.Unix(a.Mtime.Sec, 0).UTC().Format("2006-01-02 15:04:05"), name)
	return err
}

var typeLetters = map[uint32]byte{unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l',
	unix.S_IFIFO: 'p', unix.S_IFSOCK: 's', unix.S_IFBLK: 'b', unix.S_IFCHR: 'c'}

// modeString formats a mode like ls -l.
func modeString(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	if c, ok := typeLetters[mode&unix.S_IFMT]; ok {
		b[0] = c
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	for _, s := range []struct {
		bit  uint32
		at   int
		x, o byte
	}{{unix.S_ISUID, 3, 's', 'S'}, {unix.S_ISGID, 6, 's', 'S'}, {unix.S_ISVTX, 9, 't', 'T'}} {
		if mode&s.bit == 0 {
			continue
		}
		if b[s.at] == 'x' {
			b[s.at] = s.x
		} else {
			b[s.at] = s.o
		}
	}
	return string(b)
}
