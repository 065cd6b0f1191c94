//go:build moto

package ebs

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/sealvol/sealvol/pkg/backend"
)

// startMoto starts moto and returns its URL.
func startMoto(t *testing.T, prog string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(prog, "-H", "127.0.0.1", "-p", fmt.Sprint(addr.Port))
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	go func() { // its log, which must not fill the pipe
		for sc := bufio.NewScanner(errs); sc.Scan(); {
		}
	}()
	url = "http://" + addr.String()
	for {
		resp, err := http.Get(url + "/moto-api/")
		if err == nil {
			if err := resp.Body.Close(); err != nil {
				t.Fatal(err)
			}
			return url
		}
	}
}

// TestMoto makes the driver's calls to a third-party EC2 simulator, as a second opinion on the wire
// format that ec2test implements. moto ignores client tokens, accepts attachments twice and has no
// intermediate states, so it proves nothing else.
func TestMoto(t *testing.T) {
	prog := os.Getenv("SEALVOL_MOTO")
	if prog == "" {
		t.Fatal("run this by `make moto`")
	}
	url := startMoto(t, prog)
	timing := DefaultTiming
	timing.Batch, timing.Coalesce, timing.CreateFirst, timing.Poll = time.Millisecond, time.Millisecond, time.Millisecond, 10*time.Millisecond
	o := Options{Region: "us-east-1", Endpoint: url, Cluster: "test", Zone: "us-east-1a", Timing: timing}
	b := open(t, o)
	node, other := motoInstance(t, o, b), motoInstance(t, o, b)
	ctx := t.Context()

	sp := spec("pvc-1")
	sp.Class, sp.Parameters = map[string]string{"type": "gp3", "iops": "4000", "throughput": "200"}, map[string]string{"recordSize": "64KiB"}
	v := mustCreate(t, b, sp)
	if again := mustCreate(t, b, sp); again.ID != v.ID || again.Parameters["recordSize"] != "64KiB" || again.SizeBytes != 10*gib {
		t.Fatalf("%+v, then %+v", v, again)
	}
	m := must(b.Attach(ctx, v.ID, node, true))
	if got := must(b.Get(ctx, v.ID)).Attachment; got == nil || got.Node != node || !got.ReadOnly || m[attachedPath] == "" {
		t.Fatalf("%+v %v", got, m)
	}
	_, err := b.Attach(ctx, v.ID, other, false)
	wantErr(t, err, backend.ErrAttachedElsewhere)
	if n := must(b.machineOf(ctx, "m5.large")); n.most < 20 {
		t.Errorf("%+v", n)
	}
	if n, err := b.Expand(ctx, v.ID, 20*gib, 0); err != nil || n != 20*gib {
		t.Fatal(n, err)
	}
	if err := b.Modify(ctx, v.ID, map[string]string{"type": "gp3", "iops": "5000"}); err != nil {
		t.Fatal(err)
	}
	snap := must(b.CreateSnapshot(ctx, backend.SnapshotSpec{Name: "s", Volume: v.ID}))
	if snap.State != backend.SnapshotReady || snap.Volume != v.ID || snap.SizeBytes != 20*gib {
		t.Fatalf("%+v", snap)
	}
	copied := mustCreate(t, b, backend.Spec{Name: "copy", Source: &backend.Source{Snapshot: snap.ID}})
	if copied.Origin != v.ID || copied.SizeBytes != 20*gib {
		t.Fatalf("%+v", copied)
	}
	all, _, err := b.List(ctx, "", 0)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	if err := b.Detach(ctx, v.ID, node); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{b.Detach(ctx, v.ID, node), b.DeleteSnapshot(ctx, snap.ID), b.DeleteSnapshot(ctx, snap.ID), b.Delete(ctx, v.ID), b.Delete(ctx, v.ID), b.Delete(ctx, copied.ID)} {
		if err != nil {
			t.Error(err)
		}
	}
	_, err = b.Get(ctx, v.ID)
	wantErr(t, err, backend.ErrNotFound)
	_, err = b.GetSnapshot(ctx, snap.ID)
	wantErr(t, err, backend.ErrSnapshotNotFound)
	_, err = b.Attach(ctx, copied.ID, node, false)
	wantErr(t, err, backend.ErrNotFound)
}

// motoInstance starts an instance.
func motoInstance(t *testing.T, o Options, b *Backend) string {
	t.Helper()
	client, ok := b.ec2.(*ec2.Client)
	if !ok {
		t.Fatal("not the SDK's client")
	}
	out, err := client.RunInstances(context.Background(), &ec2.RunInstancesInput{ImageId: aws.String("ami-12c6146b"), InstanceType: "m5.large", MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(out.Instances[0].InstanceId)
}
