package volume

import (
	"reflect"
	"testing"

	"github.com/sealvol/sealvol/pkg/volume/device"
)

// TestOwners: each owner that a volume holds knows it, also in the view of a snapshot.
func TestOwners(t *testing.T) {
	dev := device.NewMem(64 << 20)
	mustFormat(t, dev)
	v := mustOpen(t, dev, Options{CommitInterval: -1})
	defer mustClose(t, v)
	_, err := v.CreateSnapshot("s")
	ok(t, err)
	fs, end, err := v.OpenSnapshot("s")
	ok(t, err)
	defer end()
	for _, v := range []*Volume{v, fs.(*snapView).Volume} {
		if n := owners(t, v, reflect.ValueOf(v).Elem(), "Volume"); n < 15 {
			t.Errorf("only %d owners found", n)
		}
	}
}

// owners counts the structs below x that have a field v, which must be want.
func owners(t *testing.T, want *Volume, x reflect.Value, path string) (n int) {
	for i := range x.NumField() {
		f, name := x.Field(i), x.Type().Field(i).Name
		switch {
		case f.Type() == reflect.TypeFor[*Volume]() && name == "v":
			n++
			if f.Pointer() != reflect.ValueOf(want).Pointer() {
				t.Errorf("%s does not know its volume: see Volume.own", path)
			}
		case f.Kind() == reflect.Struct:
			n += owners(t, want, f, path+"."+name)
		}
	}
	return n
}
