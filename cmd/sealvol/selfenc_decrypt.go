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

// read decrypts the file of a map to w.
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
		Use:   "decrypt --store URL [flags] MAP",
		Short: "Decrypt a file from a chunk store",
		Long: `Decrypt the file of a MAP. The output is the name of MAP without ".map", or --output. "-"
is standard output. A file gets its name only when it is complete and every byte was
verified. All bytes written to standard output are verified, too, even if an error
follows.`,
		Example: `  sealvol selfenc decrypt --tenant-file tenant.key --store file:///srv/chunks disk.img.map
  sealvol selfenc decrypt --encoding se36 --store file:///srv/chunks --output - map.bin`,
		Args: args(1, 1, "one MAP"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			if output == "-" {
				if o.json {
					return usageError(errors.New("--json cannot be used with --output -: both write to standard output"))
				}
				_, err := o.read(ctx, a[0], "decrypt", c.OutOrStdout())
				return err
			}
			return decryptFile(ctx, &o, c.OutOrStdout(), a[0], output, force)
		},
	}
	o.register(c.Flags(), "", encodingOfMap)
	o.rate.registerDownload(c.Flags())
	c.Flags().StringVar(&output, "output", "", "output file (default: MAP without .map); - is standard output")
	c.Flags().BoolVar(&force, "force", false, "overwrite an existing file")
	return c
}

func decryptFile(ctx context.Context, o *selfencFlags, report io.Writer, path, output string, force bool) error {
	if output == "" {
		var ok bool
		if output, ok = strings.CutSuffix(path, mapSuffix); !ok || output == "" {
			return usageError(fmt.Errorf("%s does not end in %s: give the output file with --output", printable(path), mapSuffix))
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
		Use:   "verify --store URL [flags] MAP",
		Short: "Read and verify every chunk of a map",
		Long: `Decrypt the file of a MAP without writing it. If verify succeeds, decrypt can restore
every byte.`,
		Example: `  sealvol selfenc verify --tenant-file tenant.key --store file:///srv/chunks disk.img.map`,
		Args:    args(1, 1, "one MAP"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			r, err := o.read(ctx, a[0], "verify", io.Discard)
			if err != nil {
				return err
			}
			yes := true
			r.Verified = &yes
			return o.print(c.OutOrStdout(), r, "%s: %s in %d chunks, %s: verified\n", printable(a[0]), formatSize(*r.SizeBytes), *r.Chunks, r.Encoding)
		},
	}
	o.register(c.Flags(), "", encodingOfMap)
	o.rate.registerDownload(c.Flags())
	return c
}
