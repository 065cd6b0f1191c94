package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// TestPatientReader: it yields what there is, and its Read ends with the context,
// though nothing ever comes.
func TestPatientReader(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 30_000)
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(data), "bytes": iotest.OneByteReader(bytes.NewReader(data)), "end with data": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		if err := iotest.TestReader(newPatientReader(t.Context(), r), data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("broken")
	got, err := io.ReadAll(newPatientReader(t.Context(), io.MultiReader(bytes.NewReader(data), iotest.ErrReader(broken))))
	if !errors.Is(err, broken) || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	never, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	r := newPatientReader(ctx, never)
	if _, err := w.Write([]byte("some")); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 10)); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	ended := make(chan error)
	go func() {
		_, err := r.Read(make([]byte, 10))
		ended <- err
	}()
	cancel(broken)
	if err := <-ended; !errors.Is(err, broken) {
		t.Error(err)
	}
}
