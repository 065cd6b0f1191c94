package operator

import (
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNodeAmong: which attachment of a volume counts while there is more than one.
func TestNodeAmong(t *testing.T) {
	at := func(node string, attached, going bool, second int64) storagev1.VolumeAttachment {
		a := storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "csi-" + node, CreationTimestamp: metav1.Unix(second, 0)},
			Spec: storagev1.VolumeAttachmentSpec{NodeName: node}, Status: storagev1.VolumeAttachmentStatus{Attached: attached}}
		if going {
			now := metav1.NewTime(time.Unix(second, 0))
			a.DeletionTimestamp = &now
		}
		return a
	}
	for name, c := range map[string]struct {
		list         []storagev1.VolumeAttachment
		before, want string
	}{
		"none":                       {nil, "a", ""},
		"one":                        {[]storagev1.VolumeAttachment{at("a", true, false, 1)}, "", "a"},
		"one, incomplete":            {[]storagev1.VolumeAttachment{at("a", false, false, 1)}, "", "a"},
		"one being deleted":          {[]storagev1.VolumeAttachment{at("a", true, true, 1)}, "a", "a"},
		"one deleted, one new":       {[]storagev1.VolumeAttachment{at("a", true, true, 1), at("b", false, false, 2)}, "a", "b"},
		"two, one is complete":       {[]storagev1.VolumeAttachment{at("a", false, false, 1), at("b", true, false, 2)}, "a", "b"},
		"two, one was before":        {[]storagev1.VolumeAttachment{at("a", true, false, 1), at("b", true, false, 2)}, "b", "b"},
		"two, none before":           {[]storagev1.VolumeAttachment{at("b", false, false, 2), at("a", false, false, 1)}, "", "a"},
		"created in the same second": {[]storagev1.VolumeAttachment{at("b", false, false, 1), at("a", false, false, 1)}, "", "a"},
	} {
		if got := nodeAmong(c.list, c.before); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
