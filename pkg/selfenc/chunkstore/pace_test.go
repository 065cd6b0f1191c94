package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPacer: many users together keep to the rate, the first one is let through at once, an unused
// time is not saved up, and who gives up costs the others nothing.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, start := NewPacer(1<<20), time.Now()
		if err := p.Wait(t.Context(), 4<<20); err != nil || time.Since(start) != 0 {
			t.Errorf("the first waits %v, %v", time.Since(start), err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := p.Wait(t.Context(), 1<<20); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := time.Since(start); got != 11*time.Second { // the last begins when 4+7 are paid for
			t.Errorf("12 MiB begin within %v", got)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough")
		wg.Go(func() {
			if err := p.Wait(ctx, 100<<20); !errors.Is(err, why) {
				t.Errorf("%v", err)
			}
		})
		synctest.Wait()
		cancel(why)
		wg.Wait()
		<-time.After(time.Hour)
		start = time.Now()
		for range 3 {
			if err := p.Wait(t.Context(), 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(start); got != 2*time.Second {
			t.Errorf("after an hour without use, 3 MiB begin within %v", got)
		}
		var none *Pacer
		if err := none.Wait(t.Context(), 1<<30); err != nil || NewPacer(0) != nil {
			t.Error("no limit is one")
		}
	})
}

// TestPacedConnection: a connection keeps to both rates, and is not taken for stalled, whatever the
// rate.
func TestPacedConnection(t *testing.T) {
	for _, rate := range []int64{MinRate, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			c, err := newMovingConn(a, 10*time.Second, NewPacer(rate), NewPacer(rate))
			if err != nil {
				t.Fatal(err)
			}
			data := bytes.Repeat([]byte("x"), int(rate)*60)
			start := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := io.ReadFull(b, make([]byte, len(data))); err != nil {
					t.Error(err)
				}
				if got := time.Since(start); got < 59*time.Second || got > 61*time.Second {
					t.Errorf("a minute's bytes were sent within %v", got)
				}
				if _, err := b.Write(data); err != nil {
					t.Error(err)
				}
			})
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, len(data))); err != nil {
				t.Fatal(err)
			}
			if got := time.Since(start); got < 118*time.Second || got > 122*time.Second {
				t.Errorf("sent and received within %v", got)
			}
			wg.Wait()
			if err := errors.Join(c.Close(), b.Close()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPacedDirectory: a directory keeps to the rates as well.
func TestPacedDirectory(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := OpenWith(t.Context(), "file://"+dir, OpenOptions{UploadRate: 1 << 20, DownloadRate: 2 << 20})
		if err != nil {
			t.Fatal(err)
		}
		start, data := time.Now(), make([]byte, 1<<20)
		for _, key := range []string{"a", "b", "c"} {
			if _, err := s.Put(t.Context(), key, data); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Replace(t.Context(), "a", data); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("four objects of 1 MiB were stored within %v", got)
		}
		start = time.Now()
		for range 2 {
			if _, err := s.Get(t.Context(), "a", nil, len(data)); err != nil {
				t.Fatal(err)
			}
			if err := s.GetRange(t.Context(), "b", 0, data); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(start); got != 1500*time.Millisecond {
			t.Errorf("four objects of 1 MiB were read within %v", got)
		}
		if n := nameOf(s); n != dir {
			t.Errorf("it is called %q", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
