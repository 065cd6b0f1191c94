package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

func selfencInfoCommand() *cobra.Command {
	var o selfencFlags
	c := &cobra.Command{
		Use:   "info [flags] MAP",
		Short: "Show the properties of a map",
		Long: `Show the properties of a MAP, without its secrets. For a v2 map, give the tenant secret
to see more than its encoding. For a se36 or se31 map with levels, give --store to see
the size of the file.`,
		Example: `  sealvol selfenc info --tenant-file tenant.key disk.img.map
  sealvol selfenc info --encoding se36 --store file:///srv/chunks --json map.bin`,
		Args: args(1, 1, "one MAP"),
		RunE: func(c *cobra.Command, a []string) error {
			ctx, cancel := interruptible(c)
			defer cancel()
			r, err := o.info(ctx, a[0])
			if err != nil {
				return err
			}
			return o.print(c.OutOrStdout(), r, "%s", r.text())
		},
	}
	o.register(c.Flags(), "", encodingOfMap)
	return c
}

func (f *selfencFlags) info(ctx context.Context, path string) (*selfencReport, error) {
	m, err := f.readMap(path)
	if err != nil {
		return nil, err
	}
	r := &selfencReport{Map: path, Encoding: m.Encoding.String(), MapForm: m.FormName()}
	if m.Encoding == selfenc.V2 {
		return r, f.infoV2(r, m)
	}
	levels, chunks := int(m.DataMap.Child), uint64(len(m.DataMap.Chunks))
	r.MapLevels, r.MapChunks = &levels, &chunks
	root := m.DataMap
	if root.Child != 0 {
		if f.store == "" {
			return r, nil
		}
		store, err := f.openStore(ctx, false)
		if err != nil {
			return nil, err
		}
		defer discard(store)
		if root, err = selfenc.RootMap(ctx, m.Encoding, chunkstore.NewChunks(store, m.Encoding), root, selfenc.Options{}); err != nil {
			return nil, fmt.Errorf("%s: %w", printable(path), err)
		}
	}
	size, n, largest := root.PlainBytes(), int64(len(root.Chunks)), int(root.Chunks[0].SrcBytes)
	r.SizeBytes, r.Chunks, r.ChunkBytes = &size, &n, &largest
	return r, nil
}

func (f *selfencFlags) infoV2(r *selfencReport, m *selfenc.StoredMap) error {
	if f.tenantFile == "" {
		return nil
	}
	s, end, err := f.sealer(nil, selfenc.Options{})
	if err != nil {
		return err
	}
	defer end()
	obj, err := s.OpenObject(m.Sealed)
	if err != nil {
		return fmt.Errorf("%s: %w", printable(r.Map), err)
	}
	n, levels := obj.Chunks(), obj.Levels()
	r.SizeBytes, r.Chunks, r.ChunkBytes, r.MapLevels = &obj.Bytes, &n, &obj.ChunkBytes, &levels
	return nil
}

func (r *selfencReport) text() string {
	var b bytes.Buffer
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("Map", "%s", printable(r.Map))
	line("Encoding", "%s", r.Encoding)
	line("Form", "%s", r.MapForm)
	if r.MapLevels != nil {
		line("Levels", "%d", *r.MapLevels)
	}
	switch {
	case r.SizeBytes != nil:
		line("Size", "%s", formatSize(*r.SizeBytes))
		line("Chunks", "%d of %s", *r.Chunks, formatSize(int64(*r.ChunkBytes)))
	case r.Encoding == selfenc.V2.String():
		line("Size", "unknown; give --tenant-file to see it")
	default:
		line("Size", "unknown; give --store to see it")
	}
	return b.String()
}
