package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	// The baseline performance of an EBS gp3 volume: 3,000 I/Os per second of up to 256 KiB, and
	// 125 MiB/s (Amazon EBS User Guide, "General Purpose SSD volumes").
	gp3IOPS        = 3000
	gp3BytesPerSec = 125 << 20
	gp3MaxKiB      = 256

	blkioDir = "/sys/fs/cgroup/blkio"
)

// throttle limits a block device for all processes, including write-back of the kernel. It uses the
// root group of the block controller in cgroup v1, because cgroup v2 has no limits at the root.
// Reads and writes have separate budgets, while EBS has one for both.
func (b *bench) throttle(dev string) error {
	name := strings.TrimPrefix(dev, "/dev/")
	number, err := os.ReadFile(filepath.Join("/sys/block", name, "dev"))
	if err != nil {
		return err
	}
	id := strings.TrimSpace(string(number))
	set := func(iops, bps int) error {
		var errs []error
		for _, way := range []string{"read", "write"} {
			errs = append(errs,
				writeLimit("blkio.throttle."+way+"_iops_device", id, iops),
				writeLimit("blkio.throttle."+way+"_bps_device", id, bps))
		}
		return errors.Join(errs...)
	}
	b.onEnd(func() error { return set(0, 0) })
	if err := set(gp3IOPS, gp3BytesPerSec); err != nil {
		return fmt.Errorf("-gp3 needs the blkio controller of cgroup v1: %w", err)
	}
	return os.WriteFile(filepath.Join("/sys/block", name, "queue/max_sectors_kb"), []byte(fmt.Sprint(gp3MaxKiB)), 0)
}

func writeLimit(file, id string, limit int) error {
	return os.WriteFile(filepath.Join(blkioDir, file), []byte(fmt.Sprintf("%s %d", id, limit)), 0)
}
