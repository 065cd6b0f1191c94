package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "4096": 4096, "512B": 512, "1K": 1 << 10, "64KiB": 64 << 10, "10Gi": 10 << 30,
		"2 TiB": 2 << 40, "7E": 7 << 60, "9223372036854775807": 1<<63 - 1} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "K", "-1", "1MB", "1kb", "1.5GiB", "8E", "9223372036854775808", "1KiBKiB", "0x10", "1 000", "10iB"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1 << 20: "1 MiB", 3 << 19: "1.5 MiB", 10 << 30: "10 GiB"} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

func TestSplitOptions(t *testing.T) {
	got := splitOptions(`ro,,context="system_u:object_r:t:s0:c1,c2",noexec`)
	if want := []string{"ro", `context="system_u:object_r:t:s0:c1,c2"`, "noexec"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if err := checkOptions(got); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"context", "ro=1", "user", "fd=3", "allow_root", " ", "rootmode=40000"} {
		if checkOptions([]string{bad}) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestModeString(t *testing.T) {
	for mode, want := range map[uint32]string{
		unix.S_IFREG | 0o644: "-rw-r--r--", unix.S_IFDIR | 0o1777: "drwxrwxrwt", unix.S_IFREG | 0o4755: "-rwsr-xr-x",
		unix.S_IFREG | 0o2644: "-rw-r-Sr--", unix.S_IFLNK | 0o777: "lrwxrwxrwx", 0o1000: "?--------T",
	} {
		if got := modeString(mode); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for want, err := range map[int]error{
		exitOK: nil, exitFailed: errors.New("x"), exitUsage: fmt.Errorf("x: %w", errKeyFlags),
		exitUnable: fmt.Errorf("x: %w", &codeError{err: vfs.ErrIO, code: exitUnable}),
	} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: %d", err, got)
		}
	}
	if h := hint(fmt.Errorf("x: %w", crypto.ErrWrongKey)); h == "" {
		t.Error("no hint for a wrong key")
	}
}

func TestSayProblems(t *testing.T) {
	var b strings.Builder
	sayProblems(&b, "v.img", []fsckProblem{{"a", "x"}, {"b", "y"}, {"a", "x"}})
	if want := "v.img: a: x (2 times)\nv.img: b: y\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
