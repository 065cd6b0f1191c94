package requestid

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"strings"
)

// Key is the key of the id in log lines.
const Key = "requestId"

// MaxBytes is the maximum length of an id from outside.
const MaxBytes = 64

type contextKey struct{}

// New returns a new random id of 16 hexadecimal digits.
func New() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(b[:])
}

// Valid tells whether an id may be logged and passed on: 1 to MaxBytes letters, digits, dots,
// dashes and underscores.
func Valid(id string) bool {
	return id != "" && len(id) <= MaxBytes && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	})
}

// With returns a context with an id. It ignores an id that is not valid.
func With(ctx context.Context, id string) context.Context {
	if !Valid(id) {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, id)
}

// Without returns a context without an id, for work that does not belong to the call of ctx.
func Without(ctx context.Context) context.Context {
	return context.WithValue(ctx, contextKey{}, "")
}

// From returns the id of a context, or "".
func From(ctx context.Context) string {
	id, _ := ctx.Value(contextKey{}).(string)
	return id
}

// Handler adds the id of the context to each log record that is logged with a context
// (slog.InfoContext and similar functions).
func Handler(h slog.Handler) slog.Handler {
	if _, ok := h.(handler); ok {
		return h
	}
	return handler{h}
}

// Logger returns log with a Handler. A nil log means slog.Default.
func Logger(log *slog.Logger) *slog.Logger {
	if log == nil {
		log = slog.Default()
	}
	return slog.New(Handler(log.Handler()))
}

type handler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if id := From(ctx); id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String(Key, id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(a []slog.Attr) slog.Handler { return handler{h.Handler.WithAttrs(a)} }

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
