package crypto

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pageBytes is the size of one locked region. Locked memory is scarce (RLIMIT_MEMLOCK is often 8
// MiB), but there are few keys.
const pageBytes = 4096

// region is one page of locked memory. The address is an unsafe.Pointer, so that printers that use
// reflection do not follow it.
type region struct {
	base unsafe.Pointer // nil after erase
	used int            // bytes handed out by take
}

// newRegion maps one page that is never swapped, dumped or inherited by child processes.
func newRegion() (*region, error) {
	base, err := unix.MmapPtr(-1, 0, nil, pageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("map memory for a key: %w", err)
	}
	r := &region{base: base}
	mem := unsafe.Slice((*byte)(base), pageBytes)
	if err := unix.Mlock(mem); err != nil {
		r.erase()
		return nil, fmt.Errorf("lock memory for a key (is RLIMIT_MEMLOCK too low?): %w", err)
	}
	for _, advice := range []int{unix.MADV_DONTDUMP, unix.MADV_WIPEONFORK} {
		if err := unix.Madvise(mem, advice); err != nil {
			r.erase()
			return nil, fmt.Errorf("protect memory of a key: %w", err)
		}
	}
	return r, nil
}

// take returns the next n bytes of the page, 16-byte aligned.
func (r *region) take(n int) secret {
	off := r.used
	r.used += (n + 15) &^ 15
	if r.base == nil || r.used > pageBytes {
		panic("crypto: key page overflow") // cannot happen: all callers request small, fixed sizes
	}
	return secret{unsafe.Add(r.base, off), n}
}

// secret is bytes in a region. Fields have this type instead of []byte, because fmt prints
// unexported fields by reflection, without calling their methods.
type secret struct {
	at  unsafe.Pointer
	len int
}

// bytes returns the bytes themselves; nil for the zero secret.
func (s secret) bytes() []byte {
	if s.at == nil {
		return nil
	}
	return unsafe.Slice((*byte)(s.at), s.len)
}

// erase overwrites the page and unmaps it. Any later use of its memory faults, instead of sealing
// under a key of zeros.
func (r *region) erase() {
	if r == nil || r.base == nil {
		return
	}
	clear(unsafe.Slice((*byte)(r.base), pageBytes))
	// Nothing can be done about an error. The page is zeros already.
	_ = unix.MunmapPtr(r.base, pageBytes)
	r.base = nil
}

// empty overwrites the used part of the page, so that it can be used again.
func (r *region) empty() {
	clear(unsafe.Slice((*byte)(r.base), r.used))
	r.used = 0
}

// redacted is embedded in every type that holds a secret. All ways of printing it give "[key]", and
// all ways of marshalling it fail.
type redacted struct{}

var errMarshal = errors.New("crypto: a key cannot be marshalled")

// Format implements fmt.Formatter for every verb.
func (redacted) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[key]") }

// String implements fmt.Stringer, for callers that do not go through fmt.
func (redacted) String() string { return "[key]" }

// LogValue implements slog.LogValuer.
func (redacted) LogValue() slog.Value { return slog.StringValue("[key]") }

// MarshalJSON refuses.
func (redacted) MarshalJSON() ([]byte, error) { return nil, errMarshal }

// MarshalText refuses.
func (redacted) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalBinary refuses, for gob too.
func (redacted) MarshalBinary() ([]byte, error) { return nil, errMarshal }

// HardenProcess disables core dumps, and prevents other processes of the same user from reading
// this process's memory (ptrace, /proc/PID/mem). Every program that holds a key calls it first.
func HardenProcess() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process non-dumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
