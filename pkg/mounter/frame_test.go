package mounter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestFrame(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, 64)
	var b bytes.Buffer
	if err := writeFrame(&b, call{Op: "mount", Mount: &MountRequest{Volume: "v", Keys: Keys{kek: secret[:32]}}}, envelope{}, secret); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b.Bytes(), secret[:32]); n != 2 {
		t.Fatalf("the key is in the frame %d times, not only as its secret", n)
	}
	var c call
	_, got, err := readFrame(&b, &c)
	if err != nil || !bytes.Equal(got, secret) || c.Mount.Volume != "v" {
		t.Fatal(c, err)
	}
	if err := writeFrame(&b, call{}, envelope{}, make([]byte, 65)); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
}

// A mounter of a version before envelopes reads the request and its secret as before. This version
// reads a request without an envelope, or with one of a later version.
func TestEnvelope(t *testing.T) {
	var b bytes.Buffer
	if err := writeFrame(&b, call{Op: "ping"}, envelope{RequestID: "call-7"}, []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	before := b.Bytes()[8:]
	d := json.NewDecoder(bytes.NewReader(before[:len(before)-10])) // readFrame of that version
	d.DisallowUnknownFields()
	var old call
	if err := d.Decode(&old); err != nil || old.Op != "ping" {
		t.Error("a mounter before:", old, err)
	}
	for text, want := range map[string]string{
		b.String(): "call-7",
		"\x00\x00\x00\x0d\x00\x00\x00\x00{\"op\":\"ping\"}":                                      "",
		"\x00\x00\x00\x0f\x00\x00\x00\x00{\"op\":\"ping\"} ]":                                    "",
		"\x00\x00\x00\x2c\x00\x00\x00\x00{\"op\":\"ping\"}{\"requestId\":\"later\",\"more\":12}": "later",
	} {
		var c call
		e, _, err := readFrame(strings.NewReader(text), &c)
		if err != nil || c.Op != "ping" || e.RequestID != want {
			t.Errorf("%q: %+v, %+v, %v", text, e, c, err)
		}
	}
}

func TestErrorsCrossSockets(t *testing.T) {
	for code, e := range wireCodes {
		w := toWire(fmt.Errorf("why: %w", e))
		if w.Code != code || !errors.Is(w.err(), e) || w.err().Error() != "why: "+e.Error() {
			t.Errorf("%s: %+v", code, w)
		}
	}
	if w := toWire(fmt.Errorf("%w: %w", ErrServer, ErrWrongKey)); w.Code != "wrong-key" {
		t.Errorf("%+v", w)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x00{}"))
	f.Add([]byte("\x00\x00\x00\x0d\x00\x00\x00\x20{\"op\":\"list\"}01234567890123456789012345678901"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c call
		_, secret, err := readFrame(bytes.NewReader(b), &c)
		if err == nil && len(secret) > maxFrameSecret {
			t.Fatal(len(secret))
		}
		if err == nil && c.Mount != nil {
			_ = c.Mount.check() // must not panic
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add(make([]byte, 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := keysFromRaw(bytes.Clone(b))
		if err == nil && !bytes.Equal(k.raw(), b) {
			t.Fatal("changed")
		}
	})
}
