package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteSize is the value of a flag in bytes. It accepts binary suffixes: 512MiB, 10G.
type byteSize int64

var units = []struct {
	name  string
	shift uint
}{{"EiB", 60}, {"PiB", 50}, {"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}}

// parseSize parses a number of bytes. K, Ki and KiB are the same. Decimal suffixes such as MB are
// refused because they are ambiguous.
func parseSize(s string) (int64, error) {
	t := strings.TrimSpace(s)
	digits := strings.TrimRight(t, "KMGTPEiB")
	suffix := t[len(digits):]
	digits = strings.TrimSpace(digits)
	shift := uint(0)
	switch suffix {
	case "", "B":
	default:
		found := false
		for _, u := range units {
			if suffix == u.name || suffix == u.name[:2] || suffix == u.name[:1] {
				shift, found = u.shift, true
			}
		}
		if !found {
			return 0, fmt.Errorf("%q is not a size: write a number and B, KiB, MiB, GiB, TiB or PiB, such as 10GiB", s)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size: write a whole number and B, KiB, MiB, GiB, TiB or PiB, such as 10GiB", s)
	}
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return int64(n << shift), nil
}

// formatSize formats a size for people, with a binary unit.
func formatSize(n int64) string {
	for _, u := range units {
		if n >= 1<<u.shift {
			f := float64(n) / float64(int64(1)<<u.shift)
			if n&(1<<u.shift-1) == 0 {
				return fmt.Sprintf("%d %s", n>>u.shift, u.name)
			}
			return fmt.Sprintf("%.1f %s", f, u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

func (b *byteSize) String() string {
	if *b == 0 {
		return ""
	}
	return strings.ReplaceAll(formatSize(int64(*b)), " ", "")
}

// Set implements pflag.Value.
func (b *byteSize) Set(s string) error {
	n, err := parseSize(s)
	*b = byteSize(n)
	return err
}

// Type implements pflag.Value.
func (b *byteSize) Type() string { return "size" }
