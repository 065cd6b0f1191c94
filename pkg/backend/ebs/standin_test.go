package ebs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
)

// TestStandInIsStrict: ec2test refuses what EC2 refuses. Otherwise tests against it would prove
// nothing.
func TestStandInIsStrict(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	b := open(t, options(s))
	v, w := mustCreate(t, b, spec("a")), mustCreate(t, b, spec("b"))
	must(b.Attach(t.Context(), v.ID, nodeA, false))
	create := func(change func(in *ec2.CreateVolumeInput)) func(context.Context) error {
		return func(ctx context.Context) error {
			in := &ec2.CreateVolumeInput{AvailabilityZone: aws.String(s.Region() + "a"), Size: aws.Int32(10), VolumeType: types.VolumeTypeGp3, ClientToken: token("a", 1)}
			change(in)
			_, err := b.ec2.CreateVolume(ctx, in)
			return err
		}
	}
	attach := func(id, node, device string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := b.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &id, InstanceId: &node, Device: &device})
			return err
		}
	}
	for name, c := range map[string]struct {
		call func(context.Context) error
		code string
	}{
		"a parameter that it does not know": {create(func(in *ec2.CreateVolumeInput) { in.OutpostArn = aws.String("x") }), "UnknownParameter"},
		"another zone":                      {create(func(in *ec2.CreateVolumeInput) { in.AvailabilityZone = aws.String("x") }), "InvalidZone.NotFound"},
		"a token for something else":        {create(func(in *ec2.CreateVolumeInput) { in.Size = aws.Int32(11) }), codeTokenMismatch},
		"a dry run":                         {create(func(in *ec2.CreateVolumeInput) { in.DryRun = aws.Bool(true) }), codeDryRun},
		"attached already":                  {attach(v.ID, nodeB, "/dev/xvdba"), codeInUse},
		"a name that is taken":              {attach(w.ID, nodeA, "/dev/xvdaa"), codeBadValue},
		"a name that is none":               {attach(w.ID, nodeA, "/dev/nvme1"), codeBadValue},
		"a machine in another zone":         {attach(w.ID, farC, "/dev/xvdba"), "InvalidVolume.ZoneMismatch"},
		"no such machine":                   {attach(w.ID, "i-00000000000000000", "/dev/xvdba"), codeNoInstance},
		"deleting what is attached": {func(ctx context.Context) error {
			_, err := b.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &v.ID})
			return err
		}, codeInUse},
		"detaching what is not": {func(ctx context.Context) error {
			_, err := b.ec2.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &w.ID, InstanceId: aws.String(nodeA)})
			return err
		}, codeState},
		"detaching from elsewhere": {func(ctx context.Context) error {
			_, err := b.ec2.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &v.ID, InstanceId: aws.String(nodeB)})
			return err
		}, codeNotAttached},
		"shrinking": {func(ctx context.Context) error {
			_, err := b.ec2.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: &v.ID, Size: aws.Int32(5)})
			return err
		}, codeBadValue},
		"one unknown id among others": {func(ctx context.Context) error {
			_, err := b.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{v.ID, volX}})
			return err
		}, codeVolumeGone},
		"a page of two": {func(ctx context.Context) error {
			_, err := b.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{MaxResults: aws.Int32(2)})
			return err
		}, codeBadValue},
	} {
		if err := translate("call", c.call(t.Context())); !isCode(err, c.code) {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if got := s.Volumes(); len(got) != 2 || got[0].GiB != 10 || len(got[1].Instances) != 0 {
		t.Errorf("something was done: %+v", got)
	}
}

// TestStandInIsUnkind: ec2test reproduces what EC2 does on its own and drivers do not expect.
func TestStandInIsUnkind(t *testing.T) {
	var c clock
	s := newEC2(t, ec2test.Options{Now: c.now, Delays: ec2test.Delays{Modify: time.Hour}, KMSKeys: []string{"k"}}, false)
	b, ctx, zone := open(t, options(s)), t.Context(), aws.String(s.Region()+"a")
	shape := func(id string) string {
		for _, v := range s.Volumes() {
			if v.ID == id {
				return fmt.Sprintf("%s %d %d", v.Type, v.IOPS, v.Throughput)
			}
		}
		return "none"
	}
	v := must(b.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(10), VolumeType: types.VolumeTypeIo2, Iops: aws.Int32(5000), ClientToken: aws.String("t")}))
	if got := must(b.ec2.CopyVolumes(ctx, &ec2.CopyVolumesInput{SourceVolumeId: v.VolumeId})); shape(*got.Volumes[0].VolumeId) != "gp2 100 0" {
		t.Error("a copy is ", shape(*got.Volumes[0].VolumeId))
	}
	must(b.ec2.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: v.VolumeId, VolumeType: types.VolumeTypeGp3}))
	_, err := b.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: aws.String(nodeA), Device: aws.String("/dev/xvdba")})
	if !isCode(translate("AttachVolume", err), codeNotPermitted) {
		t.Error("attached while it is modified: ", err)
	}
	if c.forward(2 * time.Hour); shape(*v.VolumeId) != "gp3 3000 125" {
		t.Error("another type has what the old one had: ", shape(*v.VolumeId))
	}
	s.Update(*v.VolumeId, "delete")
	_, err = b.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(10), VolumeType: types.VolumeTypeIo2, Iops: aws.Int32(5000), ClientToken: aws.String("t")})
	if !isDeletedToken(translate("CreateVolume", err)) {
		t.Error("a burnt token: ", err)
	}
	k := must(b.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(10), Encrypted: aws.Bool(true), KmsKeyId: aws.String("k")}))
	s.DisableKey("k")
	must(b.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: k.VolumeId, InstanceId: aws.String(nodeA), Device: aws.String("/dev/xvdba")}))
	for _, v := range s.Volumes() {
		if len(v.Instances) > 0 {
			t.Errorf("a key that is not to be used: %+v", v)
		}
	}
}

// TestStandInCutsOff: an instance cannot write to a detached device any more, and each instance
// finds its own devices.
func TestStandInCutsOff(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, true)
	mine := t.TempDir()
	other := s.AddInstance(ec2test.Instance{Dir: mine})
	b := open(t, options(s))
	v := mustCreate(t, b, spec("a"))
	device := func(b *Backend, node string) *os.File {
		t.Helper()
		c := must(b.Attach(t.Context(), v.ID, node, false))
		f, err := os.OpenFile(must(b.Device(t.Context(), v.ID, c)).Path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	write := func(f *os.File, s string) error {
		_, err := f.WriteAt([]byte(s), 0)
		return errors.Join(err, f.Sync())
	}
	old := device(b, nodeA)
	defer old.Close()
	if err := write(old, "synced"); err != nil {
		t.Fatal(err)
	}
	if err := b.Detach(t.Context(), v.ID, nodeA); err != nil {
		t.Fatal(err)
	}
	if write(old, "beyond") == nil {
		t.Error("written after the detachment")
	}
	if _, err := b.Device(t.Context(), v.ID, nil); !errors.Is(err, backend.ErrNotAttached) {
		t.Error(err)
	}
	o := options(s)
	o.Sys, o.Links = filepath.Join(mine, "sys"), filepath.Join(mine, "dev")
	f := device(open(t, o), other)
	defer f.Close()
	if write(old, "far beyond") == nil {
		t.Error("written when it is elsewhere")
	}
	got := make([]byte, 10)
	if _, err := f.ReadAt(got, 0); err != nil || string(got[:6]) != "synced" {
		t.Errorf("%q %v", got, err)
	}
}
