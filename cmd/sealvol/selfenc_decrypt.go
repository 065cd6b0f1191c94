package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/atomicfile"
	"github.com/sealvol/sealvol/pkg/selfenc"
)

// read passes all of what a map is of to w.
func (f *selfencFlags) read(ctx context.Context, path, what string, w io.Writer) (*selfencReport, error) {
	m, err := f.readMap(path)
	if err != nil {
		return nil, err
	}
	store, err := f.openStore(ctx, false)
	if err != nil {
		return nil, err
	}
	defer discard(store)
	bar := newProgress(what)
	defer bar.end()
	size := int64(0)
	r, end, err := f.open(ctx, m, store, selfenc.Options{Progress: func(p selfenc.Progress) { bar.set(uint64(p.DoneBytes), uint64(size)) }})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", printable(path), err)
	}
	defer end()
	size = r.Size()
	if err := r.Copy(ctx, w, 0, size); err != nil {
		return nil, fmt.Errorf("%s: %w", printable(path), err)
	}
	n := r.Chunks()
	return &selfencReport{Map: path, Encoding: m.Encoding.String(), SizeBytes: &size, Chunks: &n}, nil
}

func selfencDecryptCommand() *cobra.Command {
	var o selfencFlags
	var output string
	var force bool
	c := &cobra.Command{
		Use:   "decrypt --store URL [flags] FILE",
		Short: "Decrypt a file from a chunk store",
		Long: `Decrypt what the map FILE is of. It is written to FILE without ".map", or to --output; "-"
is standard output. A file gets its name when it is whole and every byte was verified;
what comes to standard output before an error is verified, too.`,
		Example: `  sealvol selfenc decrypt --tenant-file tenant.key --store file:///srv/chunks disk.img.map
  sealvol selfenc decrypt --encoding se36 --store file:///srv/chunks --output - map.bin`,
		Args: args(1, 1, "one FILE"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			if output == "-" {
				if o.json {
					return usageError(errors.New("--json and the data can not share standard output"))
				}
				_, err := o.read(ctx, a[0], "decrypt", c.OutOrStdout())
				return err
			}
			return decryptFile(ctx, &o, c.OutOrStdout(), a[0], output, force)
		},
	}
	o.register(c.Flags(), "", encodingOfMap)
	c.Flags().StringVar(&output, "output", "", "where to write; FILE without .map by default, - is standard output")
	c.Flags().BoolVar(&force, "force", false, "overwrite a file that is there")
	return c
}

func decryptFile(ctx context.Context, o *selfencFlags, report io.Writer, path, output string, force bool) error {
	if output == "" {
		var ok bool
		if output, ok = strings.CutSuffix(path, mapSuffix); !ok || output == "" {
			return usageError(fmt.Errorf("%s does not end in %s: say where to write with --output", printable(path), mapSuffix))
		}
	}
	if _, err := os.Lstat(output); err == nil && !force {
		return withHint(fmt.Errorf("%s: %w", printable(output), os.ErrExist), "give another name with --output, or repeat with --force")
	}
	f, err := atomicfile.Create(output, atomicfile.Options{New: !force})
	if err != nil {
		return err
	}
	defer f.Discard()
	r, err := o.read(ctx, path, "decrypt", f)
	if err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return err
	}
	r.File = output
	return o.print(report, r, "%s: %s, %s\n", printable(output), formatSize(*r.SizeBytes), r.Encoding)
}

func selfencVerifyCommand() *cobra.Command {
	var o selfencFlags
	c := &cobra.Command{
		Use:   "verify --store URL [flags] FILE",
		Short: "Read and verify every chunk of a map",
		Long: `Decrypt everything that the map FILE is of, and write it nowhere. If it succeeds, decrypt
would give back every byte.`,
		Example: `  sealvol selfenc verify --tenant-file tenant.key --store file:///srv/chunks disk.img.map`,
		Args:    args(1, 1, "one FILE"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			r, err := o.read(ctx, a[0], "verify", io.Discard)
			if err != nil {
				return err
			}
			yes := true
			r.Verified = &yes
			return o.print(c.OutOrStdout(), r, "%s: %s in %d chunks, %s: all is there\n", printable(a[0]), formatSize(*r.SizeBytes), *r.Chunks, r.Encoding)
		},
	}
	o.register(c.Flags(), "", encodingOfMap)
	return c
}
