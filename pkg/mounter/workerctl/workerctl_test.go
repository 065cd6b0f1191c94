package workerctl

import (
	"errors"
	"strings"
	"testing"
)

func id(c string) string { return strings.Repeat(c, 32) }

func TestCheckStart(t *testing.T) {
	many := make([]string, maxDrop+1)
	for i := range many {
		many[i] = id("c")
	}
	good := Start{Volume: "v", ID: id("a"), Base: id("b"), Drop: many[:maxDrop]}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, s := range []Start{
		{}, {ID: id("A")}, {ID: id("a") + "a"}, {ID: id("a")[:31] + "/"}, {ID: id("a"), Base: "x"}, {ID: id("a"), Base: id("a")},
		{ID: id("a"), Drop: []string{id("a")}}, {ID: id("a"), Base: id("b"), Drop: []string{id("b")}}, {ID: id("a"), Drop: []string{"x"}},
		{ID: id("a"), Drop: many}, {ID: id("a"), BytesPerSecond: -1}, {ID: id("a"), Params: make([]byte, maxParams+1)},
	} {
		if err := s.Check(); err == nil {
			t.Errorf("accepted: %+v", s)
		}
	}
	if err := CheckID("ü"); !errors.Is(err, ErrID) {
		t.Errorf("%v", err)
	}
}

func TestResumable(t *testing.T) {
	for o, want := range map[Outcome]bool{Running: false, Succeeded: false, Failed: false, Cancelled: false, Stopped: true, Interrupted: true, Died: true} {
		if o.Resumable() != want {
			t.Errorf("%q: %v", o, !want)
		}
	}
}
