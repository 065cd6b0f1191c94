package versitygw

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/commit"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/gc"
	"github.com/sealvol/sealvol/pkg/snapshot/lock"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore"
	"github.com/sealvol/sealvol/pkg/snapshot/snapstore/snapstoretest"
)

// TestLockedSnapshots: in a bucket with object lock, a later snapshot extends the locks of what it
// needs, leases can be deleted as ever, and a pruner deletes nothing that is locked, and says so.
func TestLockedSnapshots(t *testing.T) {
	url := gatewayOf(t, nil, true)
	c := lockedBucket(t, url)
	open := func(params string) *snapstore.Store {
		t.Helper()
		objects, err := snapstore.OpenChunks(t.Context(), fmt.Sprintf("s3://%s/store?region=us-east-1&endpoint=%s%s", bucket, url, params), chunkstore.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s, _, err := snapstore.Create(t.Context(), objects, snapstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	secret, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Erase()
	tenant, err := snapstore.NewTenant(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer tenant.Erase()
	store := open("&object-lock=GOVERNANCE&retain-days=1")
	first, err := snapstoretest.Make(t.Context(), store.Objects(), tenant, snapstoretest.Snapshot{Volume: format.NewID()})
	if err != nil {
		t.Fatal(err)
	}
	first.Key.Erase()
	second, err := snapstoretest.Make(t.Context(), store.Objects(), tenant, snapstoretest.Snapshot{Parent: first.ID})
	if err != nil {
		t.Fatal(err)
	}
	second.Key.Erase()

	later := open("&object-lock=GOVERNANCE&retain-days=30")
	meter := chunkstore.NewMeter(later.Objects())
	r, err := lock.Extend(t.Context(), meter, second.Head, lock.Options{})
	if err != nil || r.Objects != 3 || r.Extended != 3 || meter.Requests().Lock != 6 {
		t.Fatalf("%+v, %+v, %v", r, meter.Requests(), err)
	}
	locked := 0
	for info, err := range later.Objects().List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		left := time.Duration(0)
		if out, err := c.GetObjectRetention(t.Context(), &s3.GetObjectRetentionInput{Bucket: aws.String(bucket), Key: aws.String("store/" + info.Key)}); err == nil {
			left = time.Until(*out.Retention.RetainUntilDate)
		}
		switch needed := strings.HasPrefix(info.Key, format.PackPrefix) || info.Key == second.Head.Pages[0].Name.Key(); {
		case needed && left < 30*24*time.Hour:
			t.Errorf("%s is locked for %v", info.Key, left)
		case needed:
			locked++
		case snapstore.Transient(info.Key) && left > 0:
			t.Errorf("%s is locked for %v", info.Key, left)
		}
	}
	if locked != 3 {
		t.Errorf("%d objects of the snapshot are there", locked)
	}
	prune(t, later, second.ID)
}

// prune forgets a snapshot and prunes: what is locked stays, and can be undeleted before.
func prune(t *testing.T, s *snapstore.Store, id format.ID) {
	t.Helper()
	if err := commit.Forget(t.Context(), s.Objects(), id, "test"); err != nil {
		t.Fatal(err)
	}
	if err := commit.Undelete(t.Context(), s.Objects(), id); err != nil {
		t.Fatal(err)
	}
	if err := commit.Forget(t.Context(), s.Objects(), id, "test"); err != nil {
		t.Fatal(err)
	}
	r, err := gc.Prune(t.Context(), s.Objects(), gc.Options{Grace: -1})
	if err != nil || len(r.Forgotten) != 1 || r.Deleted.Objects != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	void, err := gc.Prune(t.Context(), s.Objects(), gc.Options{Undelete: -1, Grace: -1})
	if err != nil || len(void.Voided) != 1 || void.Condemned.Objects != 2 {
		t.Fatalf("%+v, %v", void, err)
	}
	if r, err = gc.Prune(t.Context(), s.Objects(), gc.Options{Undelete: -1, Grace: -1}); err != nil || r.Deleted.Objects != 0 || r.Locked.Objects != 2 || r.Snapshots != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
