package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
)

// rateFlags limit how fast a command exchanges data with a store.
type rateFlags struct {
	upload, download byteSize
}

func (r *rateFlags) registerUpload(flags *pflag.FlagSet) {
	flags.Var(&r.upload, "limit-upload", "most bytes per second to send to the store, such as 2MiB (default: no limit)")
}

func (r *rateFlags) registerDownload(flags *pflag.FlagSet) {
	flags.Var(&r.download, "limit-download", "most bytes per second to read from the store, such as 2MiB (default: no limit)")
}

// options checks the limits and returns them.
func (r *rateFlags) options(create bool) (chunkstore.OpenOptions, error) {
	for _, l := range []struct {
		name string
		size byteSize
	}{{"upload", r.upload}, {"download", r.download}} {
		if l.size != 0 && l.size < chunkstore.MinRate {
			return chunkstore.OpenOptions{}, usageError(fmt.Errorf("--limit-%s %s: too low, the minimum is %s", l.name, l.size.String(), formatSize(chunkstore.MinRate)))
		}
	}
	return chunkstore.OpenOptions{Create: create, UploadRate: int64(r.upload), DownloadRate: int64(r.download)}, nil
}
