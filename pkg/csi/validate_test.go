package csi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

func TestKeys(t *testing.T) {
	hexa := strings.Repeat("0123456789abcDEF", 4)
	for _, s := range []map[string]string{{"kek": hexa}, {"kek": hexa + "\n"}, {"kek": strings.Repeat("k", 32)}, {"kek": hexa, "kek-previous": hexa}, {"kek": hexa, "kek-previous": ""}} {
		k, found, err := keysOf(s)
		if err != nil || !found || len(k.KEK()) != 32 || (k.Previous() != nil) != (s["kek-previous"] != "") {
			t.Errorf("%v: %v", s, err)
		}
	}
	if _, found, err := keysOf(map[string]string{"other": "x"}); found || err != nil {
		t.Error(found, err)
	}
}

// TestSanitiseEveryMessage fills all secret fields and maps of every message of the spec with
// marks.
func TestSanitiseEveryMessage(t *testing.T) {
	n := 0
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if mt.Descriptor().ParentFile().Package() != "csi.v1" || mt.Descriptor().IsMapEntry() {
			return true
		}
		n++
		m := dynamicpb.NewMessage(mt.Descriptor())
		mark(m, 0)
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		typed := mt.New().Interface()
		if err := proto.Unmarshal(raw, typed); err != nil {
			t.Fatal(err)
		}
		if s := sanitise(typed).String(); strings.Contains(s, "SECRET") {
			t.Errorf("%s: %s", mt.Descriptor().FullName(), s)
		}
		return true
	})
	if n < 50 {
		t.Fatalf("only %d messages", n)
	}
	if s := sanitise(&csi.NodeStageVolumeRequest{VolumeId: "vol"}).String(); !strings.Contains(s, "vol") {
		t.Error(s)
	}
}

func mark(m protoreflect.Message, depth int) {
	if depth > 4 {
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsMap() && f.MapValue().Kind() == protoreflect.StringKind:
			m.Mutable(f).Map().Set(protoreflect.ValueOfString("SECRETKEY").MapKey(), protoreflect.ValueOfString("SECRETVALUE"))
		case f.IsList() && f.Kind() == protoreflect.StringKind:
			m.Mutable(f).List().Append(protoreflect.ValueOfString("SECRETITEM"))
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			l := m.Mutable(f).List()
			e := l.NewElement()
			mark(e.Message(), depth+1)
			l.Append(e)
		case f.Kind() == protoreflect.MessageKind && !f.IsMap():
			mark(m.Mutable(f).Message(), depth+1)
		case f.Kind() == protoreflect.StringKind && isSecret(f):
			m.Set(f, protoreflect.ValueOfString("SECRETFIELD"))
		}
	}
}

func FuzzParameters(f *testing.F) {
	f.Add("recordSize", "64KiB")
	f.Add("suite", "xaes256gcm")
	f.Add("csi.storage.k8s.io/pv/name", "x")
	f.Fuzz(func(t *testing.T, k, v string) {
		ours, format, err := parseContext(map[string]string{k: v})
		if err != nil && len(v) > 8 && strings.Contains(err.Error(), v) && !strings.Contains(err.Error(), k) {
			t.Fatalf("the value is in %v", err)
		}
		if err == nil && len(ours) > 0 && format == nil {
			t.Fatal("no format")
		}
	})
}

func FuzzPath(f *testing.F) {
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "in"), 0o755); err != nil {
		f.Fatal(err)
	}
	r, err := openRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dir + "/in")
	f.Add(dir + "/in/../../etc")
	f.Add("/etc")
	f.Add(dir + "//in/./")
	f.Fuzz(func(t *testing.T, p string) {
		rel, err := r.rel("path", p)
		if err == nil && (filepath.IsAbs(rel) || rel == "." || strings.HasPrefix(rel, "..") || !filepath.IsLocal(rel)) {
			t.Fatalf("%q became %q", p, rel)
		}
	})
}
