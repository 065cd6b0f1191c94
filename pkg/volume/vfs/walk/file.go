package walk

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ReadBytes is the recommended size of reads: it lets the engine decrypt records on all cores.
const ReadBytes = 1 << 20

// ReadFile writes the contents of a file to w. It reads through buf.
func ReadFile(fs vfs.Reader, ino vfs.Ino, w io.Writer, buf []byte) error {
	for off := uint64(0); ; {
		n, err := fs.Read(ino, off, buf)
		if err != nil {
			return fmt.Errorf("at %d: %w", off, err)
		}
		if n == 0 {
			return nil
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		off += uint64(n)
	}
}

var kindNames = map[uint32]string{unix.S_IFREG: "file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symlink",
	unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket", unix.S_IFBLK: "block", unix.S_IFCHR: "char"}

// KindName returns a word for the type of an inode, given the S_IFMT bits of its mode.
func KindName(kind uint32) string {
	if n, ok := kindNames[kind]; ok {
		return n
	}
	return "unknown"
}

// Printable returns a name that is safe to print on a terminal. Names in a volume are not trusted,
// and may contain control sequences.
func Printable(name string) string {
	if utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return name
	}
	return strconv.Quote(name)
}
