package ebs

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// TestTags: tags come from the flags, from the StorageClass, which takes precedence, and from the
// purpose. A retry finds the same volume even if the purpose has changed.
func TestTags(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	o := options(s)
	o.Tags = map[string]string{"team": "everybody", "cost": "1"}
	b := open(t, o)
	sp := spec("a")
	sp.Class = map[string]string{"tagSpecification_1": "team=data=base", "tagSpecification_x": "käse=" + strings.Repeat("ö", 256)}
	sp.For = backend.Purpose{"pvc/name": "data", "pvc/namespace": "shop", "pv/name": "pvc-1"}
	v := mustCreate(t, b, sp)
	want := map[string]string{"team": "data=base", "cost": "1", "käse": strings.Repeat("ö", 256), tagCluster: "test", tagName: "a", tagClass: classOf(sp.Class, nil),
		"kubernetes.io/created-for/pvc/name": "data", "kubernetes.io/created-for/pvc/namespace": "shop", "kubernetes.io/created-for/pv/name": "pvc-1"}
	if got := s.Volumes()[0].Tags; !maps.Equal(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	sp.For = nil
	if w := mustCreate(t, b, sp); w.ID != v.ID {
		t.Error("another volume")
	}
	sp.Class = map[string]string{"tagSpecification_1": "team=x"}
	_, err := b.Create(t.Context(), sp)
	wantErr(t, err, backend.ErrExists)

	if _, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: v.ID, For: backend.Purpose{"volumesnapshot/name": "n"}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Calls() {
		if c.Action != "CreateSnapshot" {
			continue
		}
		if got := fmt.Sprint(c.Params); !strings.Contains(got, "[kubernetes.io/created-for/volumesnapshot/name]") || strings.Contains(got, "shop") || !strings.Contains(got, "[everybody]") {
			t.Errorf("the snapshot's: %v", got)
		}
	}
}

// TestTagLimits: tags that EC2 does not accept are refused with a reason before EC2 is called. Its
// limits can be used completely.
func TestTagLimits(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	o := options(s)
	for want, tags := range map[string]map[string]string{
		"begin with aws:":                       {"aws:x": "y"},
		"begin with aws: ":                      {"AWS:x": "y"},
		"begin with csi.sealvol.dev/":           {tagCluster: "other"},
		"begin with kubernetes.io/created-for/": {tagPurpose + "pvc/name": "x"},
		"1 to 128 characters":                   {strings.Repeat("ö", 129): ""},
		"have 1 to 128":                         {"": "x"},
		"more than 256 characters":              {"x": strings.Repeat("y", 257)},
		"not valid UTF-8":                       {"x": "\xff"},
		"allows only 42 more":                   numbered(43),
	} {
		o.Tags = tags
		want = strings.TrimSpace(want)
		if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("flags: %v, want %q", err, want)
		}
		if strings.Contains(want, "allows only") {
			continue
		}
		o.Tags = nil
		b := open(t, o)
		for k, v := range tags {
			sp := spec("a")
			sp.Class = map[string]string{"tagSpecification_1": k + "=" + v}
			_, err := b.Create(t.Context(), sp)
			wantErr(t, err, backend.ErrInvalid)
			if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "tagSpecification_1") {
				t.Errorf("class: %v, want %q", err, want)
			}
		}
	}
	o.Tags = numbered(42)
	b := open(t, o)
	mustCreate(t, b, spec("a"))
	if n := len(s.Volumes()[0].Tags); n != 42+3 {
		t.Errorf("%d tags", n)
	}
	sp := spec("b")
	sp.For = backend.Purpose{"pvc/name": "x", "pvc/namespace": "y"}
	v := mustCreate(t, b, sp)
	if tags := s.Volumes()[1].Tags; len(tags) != 42+4 || tags[tagPurpose+"pvc/name"] != "x" { // there is no room for the other tag of the purpose
		t.Error(tags)
	}
	if _, err := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{Name: "s", Volume: v.ID, For: backend.Purpose{"volumesnapshot/name": "n"}}); err != nil {
		t.Error(err)
	}
	badClassTags(t, s, b, sp)
}

// badClassTags are refused before EC2 is called.
func badClassTags(t *testing.T, s *ec2test.Server, b *Backend, sp backend.Spec) {
	t.Helper()
	before := len(s.Calls())
	sp.Name, sp.Class = "d", map[string]string{"tagSpecification_1": "a=1", "tagSpecification_2": "b=2"}
	_, err := b.Create(t.Context(), sp)
	wantErr(t, err, backend.ErrInvalid)
	if !strings.Contains(err.Error(), "there would be 51") {
		t.Error(err)
	}
	for _, class := range []string{"team", ""} {
		sp := spec("c")
		sp.Class = map[string]string{"tagSpecification_1": class}
		_, err := b.Create(t.Context(), sp)
		wantErr(t, err, backend.ErrInvalid)
	}
	sp.Class = map[string]string{"tagSpecification_1": "a=1", "tagSpecification_2": "a=2"}
	_, err = b.Create(t.Context(), sp)
	wantErr(t, err, backend.ErrInvalid)
	wantErr(t, b.Modify(t.Context(), volX, map[string]string{"tagSpecification_1": "a=1"}), backend.ErrInvalid)
	for _, c := range s.Calls()[before:] {
		if !strings.HasPrefix(c.Action, "Describe") {
			t.Errorf("EC2 was asked for %s", c.Action)
		}
	}
}

func numbered(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprint("tag", i)] = "x"
	}
	return m
}
