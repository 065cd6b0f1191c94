package awsclient

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// closing is a body like that of smithy-go: once it is closed, WriteTo fails with io.EOF, and Read
// returns io.EOF as at its end.
type closing struct {
	mu sync.Mutex
	r  *strings.Reader // nil when closed; guarded by mu
}

func (c *closing) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.r == nil {
		return 0, io.EOF
	}
	return c.r.Read(b)
}

func (c *closing) WriteTo(io.Writer) (int64, error) { return 0, io.EOF }

func (c *closing) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r = nil
	return nil
}

// TestPlainBody: with the wrapper, a body whose WriteTo fails is sent completely. Without it, the
// request fails, which shows that the wrapper is needed.
func TestPlainBody(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(b)
	}))
	defer srv.Close()
	send := func(d Doer, body io.ReadCloser) (string, error) {
		r, err := http.NewRequest(http.MethodPost, srv.URL, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := d.Do(r)
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(resp.Body)
		return string(b), errors.Join(err, resp.Body.Close())
	}
	text := strings.Repeat("body ", 10000)
	if got, err := send(PlainBody{http.DefaultClient}, &closing{r: strings.NewReader(text)}); err != nil || got != text {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := send(http.DefaultClient, &closing{r: strings.NewReader(text)}); err == nil && got == text {
		t.Error("net/http no longer uses WriteTo: the wrapper can go")
	}
	for _, body := range []io.ReadCloser{nil, http.NoBody, io.NopCloser(bytes.NewReader(nil))} {
		if got, err := send(PlainBody{http.DefaultClient}, body); err != nil || got != "" {
			t.Errorf("%q, %v", got, err)
		}
	}
}
