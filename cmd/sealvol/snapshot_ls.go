package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/snapshot/reading"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/walk"
)

func snapshotLsCommand() *cobra.Command {
	var from storedFlags
	var key keyFlags
	var long, recursive, asJSON bool
	c := &cobra.Command{
		Use:   "ls --store URL --tenant-file FILE --key-file FILE [-l] [-R] SNAPSHOT [PATH...]",
		Short: "List files of a stored snapshot",
		Long: `List each PATH (default: /) of a stored snapshot. Of a directory, its entries are listed;
with -R, also everything below. With -l, each line has mode, owner, group, size and time
of modification (in UTC). Only what is needed is read from the store: names and
attributes, not the content of files.

With --json, the list is an array as in sealvol ls, with everything below each PATH. It
has the SHA-256 of the contents of files, so all data below is read.`,
		Example: `  sealvol snapshot ls --store file:///backup --tenant-file tenant.key --key-file vol.key latest
  sealvol snapshot ls --store file:///backup --tenant-file tenant.key --key-file vol.key -l -R nightly /etc`,
		Args: args(1, -1, "a SNAPSHOT and any number of PATHs"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			paths := a[1:]
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			return readStored(ctx, &from, &key, a[0], func(_ *stored, r *reading.Snapshot, _ *snapstore.Snapshot) error {
				l := newLister(r.View(ctx), c.OutOrStdout(), asJSON)
				list := l.list
				if !asJSON {
					list = (&entryLister{l, long, recursive}).list
				}
				for _, p := range paths {
					if err := list(p); err != nil {
						return errors.Join(err, l.end())
					}
				}
				return l.end()
			})
		},
	}
	from.register(c.Flags())
	key.register(c.Flags())
	from.rate.registerDownload(c.Flags())
	c.Flags().BoolVarP(&long, "long", "l", false, "print modes, owners, sizes and times")
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "also list everything below")
	c.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON, with checksums of contents")
	return c
}

// entryLister lists entries of directories, as ls(1) does.
type entryLister struct {
	*lister
	long, recursive bool
}

func (l *entryLister) list(p string) error {
	e, err := walk.Lookup(l.fs, p, false)
	if err != nil {
		return err
	}
	if e.Kind() != unix.S_IFDIR {
		return l.print(e)
	}
	w := &walk.Walker{FS: l.fs}
	if l.recursive {
		return w.Walk(e, l.print)
	}
	return w.Children(e, l.print)
}

func (l *entryLister) print(e *walk.Entry) error {
	if l.long {
		return l.text(e)
	}
	_, err := fmt.Fprintln(l.out, printable(e.Path))
	return err
}

func snapshotCatCommand() *cobra.Command {
	var from storedFlags
	var key keyFlags
	c := &cobra.Command{
		Use:   "cat --store URL --tenant-file FILE --key-file FILE SNAPSHOT PATH...",
		Short: "Print files of a stored snapshot",
		Long: `Print the contents of each PATH of a stored snapshot. Symbolic links are followed inside
the snapshot. Only verified bytes are printed. If a file is damaged, the command stops
there and fails. Only these files are read from the store.`,
		Example: `  sealvol snapshot cat --store file:///backup --tenant-file tenant.key --key-file vol.key latest /etc/app.conf`,
		Args:    args(2, -1, "a SNAPSHOT and at least one PATH"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			return readStored(ctx, &from, &key, a[0], func(_ *stored, r *reading.Snapshot, _ *snapstore.Snapshot) error {
				return catFiles(r.View(ctx), c.OutOrStdout(), a[1:])
			})
		},
	}
	from.register(c.Flags())
	key.register(c.Flags())
	from.rate.registerDownload(c.Flags())
	return c
}

// catFiles prints files.
func catFiles(v vfs.Reader, w io.Writer, paths []string) error {
	buf := make([]byte, walk.ReadBytes)
	for _, p := range paths {
		e, err := walk.Lookup(v, p, true)
		if err != nil {
			return err
		}
		switch e.Kind() {
		case unix.S_IFREG:
		case unix.S_IFDIR:
			return fmt.Errorf("%s: %w", printable(p), vfs.ErrIsDir)
		default:
			return fmt.Errorf("%s: not a regular file", printable(p))
		}
		if err := walk.ReadFile(v, e.Attr.Ino, w, buf); err != nil {
			return fmt.Errorf("%s: %w", printable(p), err)
		}
	}
	return nil
}
