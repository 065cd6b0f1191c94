package probe

import (
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// mark is the signature of a format: bytes at an offset from the beginning or, if it is negative,
// from the end of the device.
type mark struct {
	off   int64
	magic string
	what  string
}

// ours are the signatures of this project's formats.
var ours = []mark{
	{layout.HeaderOffsetA + 1, "SEALVOL", "a Sealvol volume"},
	{layout.HeaderOffsetB + 1, "SEALVOL", "a Sealvol volume"},
	{4, "DBLCRYPT", "a doublecrypt volume (format v1)"},
	{0, "DBLCRYPT", "a doublecrypt volume (format v1)"},
}

// marks are the signatures that libblkid knows (util-linux, libblkid/src/superblocks and
// libblkid/src/partitions: magic and offset of each prober), except those that need more than a
// comparison. Long ones come first. Those of two bytes come last, because they are the least
// specific. A device without any of them is not necessarily blank; see IsBlank.
var marks = []mark{
	// Encryption and integrity: luks.c, bitlocker.c, dm_integrity (drivers/md/dm-integrity.c,
	// SB_MAGIC), verity_hash.c.
	{0, "LUKS\xba\xbe", "a LUKS volume"},
	{0x4000, "SKUL\xba\xbe", "a LUKS volume"}, {0x8000, "SKUL\xba\xbe", "a LUKS volume"}, {0x10000, "SKUL\xba\xbe", "a LUKS volume"},
	{0x20000, "SKUL\xba\xbe", "a LUKS volume"}, {0x40000, "SKUL\xba\xbe", "a LUKS volume"}, {0x80000, "SKUL\xba\xbe", "a LUKS volume"},
	{0x100000, "SKUL\xba\xbe", "a LUKS volume"}, {0x200000, "SKUL\xba\xbe", "a LUKS volume"}, {0x400000, "SKUL\xba\xbe", "a LUKS volume"},
	{3, "-FVE-FS-", "a BitLocker volume"},
	{0, "integrt\x00", "a dm-integrity device"},
	{0, "verity\x00\x00", "a dm-verity hash device"},

	// Volume managers, RAID, caches: lvm.c, linux_raid.c, bcache.c, stratis.c, vdo.c, isw_raid.c,
	// ddf_raid.c, drbd.c, zfs.c, bluestore.c, lvm.c (LVM1, snapshots).
	{24, "LVM2 001", "an LVM physical volume"}, {512 + 24, "LVM2 001", "an LVM physical volume"},
	{1024 + 24, "LVM2 001", "an LVM physical volume"}, {1536 + 24, "LVM2 001", "an LVM physical volume"},
	{0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"},
	{0x1018, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "a bcachefs file system"},
	{512 + 4, "!Stra0tis\x86\xff\x02^\x41rh", "a Stratis device"},
	{0, "dmvdo001", "a VDO device"},
	{0, "bluestore block device", "a Ceph BlueStore device"},
	{32, "ORCLDISK", "an Oracle ASM disk"},
	{0, "SnAp", "a device-mapper snapshot"},
	{-1024, "Intel Raid ISM Cfg Sig. ", "a member of an Intel RAID"},
	{-512, "\xde\x11\xde\x11", "a member of a DDF RAID"}, {-512, "\x11\xde\x11\xde", "a member of a DDF RAID"},
	{-4096 + 60, "\x83\x74\x02\x6b", "a DRBD device"}, {-4096 + 60, "\x83\x74\x02\x6d", "a DRBD device"},
	{0, "\xfc\x4e\x2b\xa9", "a member of a Linux RAID"}, {4096, "\xfc\x4e\x2b\xa9", "a member of a Linux RAID"},

	// Swap and suspended systems, for each page size: swap.c.
	{4096 - 10, "SWAPSPACE2", "swap space"}, {8192 - 10, "SWAPSPACE2", "swap space"}, {16384 - 10, "SWAPSPACE2", "swap space"}, {65536 - 10, "SWAPSPACE2", "swap space"},
	{4096 - 10, "SWAP-SPACE", "swap space"}, {4096 - 10, "S1SUSPEND", "a suspended system"}, {4096 - 10, "S2SUSPEND", "a suspended system"}, {4096 - 10, "LINHIB0001", "a suspended system"},

	// File systems: btrfs.c, xfs.c, f2fs.c, ntfs.c, exfat.c, refs.c, vfat.c, apfs.c, squashfs.c,
	// erofs.c, cramfs.c, romfs.c, iso9660.c, udf.c, jfs.c, reiserfs.c, gfs.c, ocfs.c, vmfs.c,
	// befs.c, hpfs.c, ufs.c, zonefs.c, vxfs.c, hfs.c.
	{64<<10 + 64, "_BHRfS_M", "a Btrfs file system"}, {64<<20 + 64, "_BHRfS_M", "a Btrfs file system"}, {256<<30 + 64, "_BHRfS_M", "a Btrfs file system"},
	{0, "XFSB", "an XFS file system"},
	{1024, "\x10\x20\xf5\xf2", "an F2FS file system"},
	{3, "NTFS    ", "an NTFS file system"},
	{3, "EXFAT   ", "an exFAT file system"},
	{0, "\x00\x00\x00ReFS\x00", "a ReFS file system"},
	{0x52, "FAT32   ", "a FAT file system"}, {0x36, "FAT16   ", "a FAT file system"}, {0x36, "FAT12   ", "a FAT file system"}, {0x36, "FAT     ", "a FAT file system"},
	{32, "NXSB", "an APFS container"},
	{0, "hsqs", "a SquashFS file system"}, {0, "sqsh", "a SquashFS file system"},
	{1024, "\xe2\xe1\xf5\xe0", "an EROFS file system"},
	{0, "\x45\x3d\xcd\x28", "a cramfs file system"},
	{0, "-rom1fs-", "a romfs file system"},
	{32769, "CD001", "an ISO 9660 file system"}, {32769, "BEA01", "a UDF file system"}, {34817, "NSR0", "a UDF file system"},
	{32768, "JFS1", "a JFS file system"},
	{65536 + 52, "ReIsEr", "a ReiserFS file system"}, {8192 + 52, "ReIsEr", "a ReiserFS file system"}, {65536, "ReIsEr4", "a Reiser4 file system"},
	{65536, "\x01\x16\x19\x70", "a GFS2 file system"},
	{1024, "OCFSV2", "an OCFS2 file system"}, {2048, "OCFSV2", "an OCFS2 file system"}, {4096, "OCFSV2", "an OCFS2 file system"}, {8192, "OCFSV2", "an OCFS2 file system"},
	{1 << 20, "\x0d\xd0\x01\xc0", "a VMFS volume"}, {2 << 20, "\x5e\xf1\xab\x2f", "a VMFS volume"},
	{32, "1SFB", "a BeFS file system"}, {544, "1SFB", "a BeFS file system"},
	{8192, "\x49\xe8\x95\xf9", "an HPFS file system"},
	{8192 + 1372, "\x54\x19\x01\x00", "a UFS file system"}, {8192 + 1372, "\x19\x01\x54\x19", "a UFS file system"}, {65536 + 1372, "\x19\x01\x54\x19", "a UFS file system"},
	{0, "SFOZ", "a zonefs file system"},
	{1024, "\xf5\xfc\x01\xa5", "a VxFS file system"},
	{1024, "H+\x00\x04", "an HFS+ file system"}, {1024, "HX\x00\x05", "an HFS+ file system"},

	// Partition tables: gpt.c, sgi.c, bsd.c, mac.c; LDM (drivers: block/partitions/ldm.h,
	// MAGIC_PRIVHEAD).
	{512, "EFI PART", "a GPT partition table"}, {4096, "EFI PART", "a GPT partition table"}, {-512, "EFI PART", "a GPT partition table"}, {-4096, "EFI PART", "a GPT partition table"},
	{6 * 512, "PRIVHEAD", "a Windows dynamic disk"},
	{0, "\x0b\xe5\xa9\x41", "an SGI disk label"},
	{512, "\x57\x45\x56\x82", "a BSD disk label"},

	// Two bytes: ext.c, also the copies in the block groups 1, 3, 5, 7, 9, 25 of file systems with
	// 4 KiB blocks (sparse_super) and in group 1 of those with 1 KiB; nilfs.c, minix.c, sun.c,
	// mac.c, lvm.c (LVM1). dos.c is last, because bootable file systems end with the same bytes.
	{1080, "\x53\xef", "an ext2/3/4 file system"},
	{8<<20 + 1024 + 56, "\x53\xef", "an ext2/3/4 file system"},
	{128<<20 + 56, "\x53\xef", "an ext2/3/4 file system"}, {3*128<<20 + 56, "\x53\xef", "an ext2/3/4 file system"}, {5*128<<20 + 56, "\x53\xef", "an ext2/3/4 file system"},
	{7*128<<20 + 56, "\x53\xef", "an ext2/3/4 file system"}, {9*128<<20 + 56, "\x53\xef", "an ext2/3/4 file system"}, {25*128<<20 + 56, "\x53\xef", "an ext2/3/4 file system"},
	{1024 + 6, "\x34\x34", "a NILFS2 file system"},
	{1024 + 16, "\x8f\x13", "a Minix file system"}, {1024 + 16, "\x78\x24", "a Minix file system"}, {1024 + 24, "\x5a\x4d", "a Minix file system"},
	{1024, "BD", "an HFS file system"},
	{508, "\xda\xbe", "a Sun disk label"},
	{0, "HM", "an LVM physical volume"},
	{510, "\x55\xaa", "a partition table or FAT file system"},
}

// moving are the signatures whose place depends on the device's size: RAID 0.90 and 1.0
// (linux_raid.c), and the uberblocks of ZFS, of which any of 128 in each of four labels may be the
// newest (zfs.c).
func moving(size int64) []mark {
	list := []mark{
		{size&^(64<<10-1) - 64<<10, "\xfc\x4e\x2b\xa9", "a member of a Linux RAID"},
		{(size/512 - 16) &^ 7 * 512, "\xfc\x4e\x2b\xa9", "a member of a Linux RAID"},
	}
	const label = 256 << 10
	end := size &^ (label - 1)
	for _, l := range []int64{0, label, end - 2*label, end - label} {
		for slot := int64(0); slot < 128; slot++ {
			off := l + 128<<10 + slot<<10
			list = append(list, mark{off, "\x0c\xb1\xba\x00\x00\x00\x00\x00", "a member of a ZFS pool"},
				mark{off, "\x00\x00\x00\x00\x00\xba\xb1\x0c", "a member of a ZFS pool"})
		}
	}
	return list
}

// at returns the place of a signature on a device of this size, false if the device is too small.
func (m *mark) at(size int64) (int64, bool) {
	off := m.off
	if off < 0 {
		off += size
	}
	return off, off >= 0 && off+int64(len(m.magic)) <= size
}

// foreign describes a known foreign format on a device, "" if there is none.
func foreign(dev device.Device, size int64) (string, error) {
	return named(dev, size, append(moving(size), marks...))
}

// named describes the first of some signatures that a device has; "" if there is none.
func named(dev device.Device, size int64, list []mark) (string, error) {
	blocks := map[int64][]byte{}
	for i := range list {
		m := &list[i]
		off, ok := m.at(size)
		if !ok {
			continue
		}
		got := make([]byte, 0, len(m.magic))
		for len(got) < len(m.magic) {
			at := off + int64(len(got))
			b, ok := blocks[at/layout.BlockBytes]
			if !ok {
				b = device.AlignedBytes(layout.BlockBytes)
				n, err := readUpTo(dev, b, at&^(layout.BlockBytes-1))
				if err != nil {
					return "", err
				}
				b = b[:n]
				blocks[at/layout.BlockBytes] = b
			}
			in := int(at % layout.BlockBytes)
			if in >= len(b) {
				break
			}
			got = append(got, b[in:min(len(b), in+len(m.magic)-len(got))]...)
		}
		if string(got) == m.magic {
			return m.what, nil
		}
	}
	return "", nil
}
