package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// handler returns a registry that stores its blobs in dir, or in memory.
func handler(dir string) (http.Handler, error) {
	opts := []registry.Option{registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))}
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		opts = append(opts, registry.WithBlobHandler(registry.NewDiskBlobHandler(dir)))
	}
	return registry.New(opts...), nil
}

// serve runs a registry until the context ends. It is for experiments and tests.
func serve(ctx context.Context, listen, dir string, out io.Writer) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	h, err := handler(dir)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer done()
	if _, err := fmt.Fprintf(out, "a test registry listens on %s; its tags are lost when it ends\n", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
