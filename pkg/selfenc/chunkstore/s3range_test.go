package chunkstore

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
)

// TestS3Checksum checks that the hash in the name of a pack is sent to the server.
func TestS3Checksum(t *testing.T) {
	var sum atomic.Value
	server := fakeS3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				sum.Store(r.Header.Get("x-amz-checksum-sha256"))
			}
			h.ServeHTTP(w, r)
		})
	})
	s := openFake(t, server, "", 1)
	want := sha256.Sum256([]byte("pack"))
	for key, has := range map[string]bool{fmt.Sprintf("packs/a/%x", want): true, fmt.Sprintf("v2/%x", want): false} {
		if _, err := s.Put(t.Context(), key, []byte("pack")); err != nil {
			t.Fatal(err)
		}
		if got := sum.Load().(string); (got == base64.StdEncoding.EncodeToString(want[:])) != has || !has && got != "" {
			t.Errorf("%s: checksum %q", key, got)
		}
	}
}

// TestS3Ranges checks that it is an error if a server ignores ranges or returns another one, and
// that a range is read again if its answer breaks off.
func TestS3Ranges(t *testing.T) {
	var mode, requests atomic.Int64
	data := []byte("0123456789")
	server := fakeS3(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n := requests.Add(1)
			switch mode.Load() {
			case 0: // ignores it
				_, _ = w.Write(data)
			case 1: // another one
				w.Header().Set("Content-Range", "bytes 4-6/10")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(data[4:7])
			case 2: // a part of it
				w.Header().Set("Content-Range", "bytes 3-4/10")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(data[3:5])
			default: // breaks off twice
				w.Header().Set("Content-Range", "bytes 3-5/10")
				w.Header().Set("Content-Length", "3")
				w.WriteHeader(http.StatusPartialContent)
				if n < 3 {
					_, _ = w.Write(data[3:4])
					panic(http.ErrAbortHandler)
				}
				_, _ = w.Write(data[3:6])
			}
		})
	})
	s := openFake(t, server, "", 3)
	for m, want := range []error{nil, nil, ErrRange, nil} {
		mode.Store(int64(m))
		requests.Store(0)
		dst := make([]byte, 3)
		err := s.GetRange(t.Context(), "x", 3, dst)
		if m < 3 && (err == nil || want != nil && !errors.Is(err, want)) || m == 3 && (err != nil || string(dst) != "345") {
			t.Errorf("mode %d: %q, %v", m, dst, err)
		}
	}
}
