package requestid

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
)

func TestValid(t *testing.T) {
	for _, id := range []string{New(), "a", "A-b_c.9", strings.Repeat("x", MaxBytes)} {
		if !Valid(id) || From(With(t.Context(), id)) != id {
			t.Errorf("%q is refused", id)
		}
	}
	for _, id := range []string{"", "a b", "a\nlevel=ERROR", "a\"", "ä", strings.Repeat("x", MaxBytes+1)} {
		if Valid(id) || From(With(With(t.Context(), "before"), id)) != "before" {
			t.Errorf("%q is accepted", id)
		}
	}
	if one, other := New(), New(); one == other {
		t.Error("two calls have one id")
	}
}

// Lines have the id once, even if the logger was wrapped several times, with and without attributes
// of its own.
func TestHandler(t *testing.T) {
	var out bytes.Buffer
	log := Logger(Logger(slog.New(slog.NewTextHandler(&out, nil))).With("volume", "v"))
	log.InfoContext(With(t.Context(), "call-7"), "with")
	log.InfoContext(context.Background(), "without")
	with, without, _ := strings.Cut(out.String(), "\n")
	if strings.Count(with, Key+"=call-7") != 1 || !strings.Contains(with, "volume=v") || strings.Contains(without, Key) {
		t.Error(out.String())
	}
}
