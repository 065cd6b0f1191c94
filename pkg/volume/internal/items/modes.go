package items

// Bits of an inode's mode, as the kernel has them (uapi/linux/stat.h).
const (
	ModeType = 0o170000
	ModeDir  = 0o040000
	ModeReg  = 0o100000
	ModeLink = 0o120000
	ModeSuid = 0o4000
	ModeSgid = 0o2000
)
