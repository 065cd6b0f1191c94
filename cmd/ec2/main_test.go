package main

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// buffer reports when something has been written to it.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	written chan struct{}
	once    sync.Once
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.once.Do(func() { close(b.written) })
	return b.b.Write(p)
}

func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := &buffer{written: make(chan struct{})}
	done := make(chan error)
	go func() { done <- run(ctx, []string{"--listen", "127.0.0.1:0", "--dir", t.TempDir(), "--fast"}, out) }()
	<-out.written
	url := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(out.b.String())
	resp, err := http.Post(url, "application/x-www-form-urlencoded", strings.NewReader("Action=DescribeVolumes&Version=2016-11-15"))
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a signature: %s, %v", resp.Status, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--listen", "0.0.0.0:0"}, {"--nodes", "0"}} {
		if err := run(t.Context(), append(args, "--dir", t.TempDir()), out); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
