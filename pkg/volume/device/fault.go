package device

import "sync"

// Op is a kind of device call.
type Op int

// The kinds of device calls that a Fault sees.
const (
	OpRead Op = iota
	OpWrite
	OpSync
	OpDiscard
)

// Fault calls a hook before each call of the device. If the hook returns an error, the call fails
// with it.
type Fault struct {
	Device
	mu    sync.Mutex
	calls int
	hook  func(n int, op Op, off int64, length int) error
}

// NewFault wraps d. The hook gets the number of the call, starting with 0.
func NewFault(d Device, hook func(n int, op Op, off int64, length int) error) *Fault {
	return &Fault{Device: d, hook: hook}
}

// SetHook changes the hook. nil disables faults.
func (f *Fault) SetHook(hook func(n int, op Op, off int64, length int) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
	f.calls = 0
}

// Calls counts the calls since the last SetHook.
func (f *Fault) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *Fault) check(op Op, off int64, n int) error {
	f.mu.Lock()
	hook, call := f.hook, f.calls
	f.calls++
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(call, op, off, n)
}

// ReadAt may fail.
func (f *Fault) ReadAt(b []byte, off int64) (int, error) {
	if err := f.check(OpRead, off, len(b)); err != nil {
		return 0, err
	}
	return f.Device.ReadAt(b, off)
}

// NextData implements Allocated if the device does. It never fails.
func (f *Fault) NextData(off int64) (from, to int64, err error) {
	if a, ok := f.Device.(Allocated); ok {
		return a.NextData(off)
	}
	return 0, 0, ErrNotSupported
}

// WriteAt may fail.
func (f *Fault) WriteAt(b []byte, off int64) (int, error) {
	if err := f.check(OpWrite, off, len(b)); err != nil {
		return 0, err
	}
	return f.Device.WriteAt(b, off)
}

// Sync may fail.
func (f *Fault) Sync() error {
	if err := f.check(OpSync, 0, 0); err != nil {
		return err
	}
	return f.Device.Sync()
}

// Discard may fail.
func (f *Fault) Discard(off, length int64) error {
	if err := f.check(OpDiscard, off, int(length)); err != nil {
		return err
	}
	return f.Device.Discard(off, length)
}
