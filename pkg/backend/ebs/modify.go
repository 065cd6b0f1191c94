package ebs

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// change is what a modification is to reach; zero values stay as they are.
type change struct {
	gib, iops, throughput int32
	kind                  types.VolumeType
}

// coalescer joins modifications of one volume that come at about the same time, as an expansion and a new class do: EC2 takes one at a time, and few a day.
type coalescer struct {
	b  *Backend
	mu sync.Mutex
	m  map[string]*joined // by volume; guarded by mu
}

// joined are several requests for one volume. want is guarded by the coalescer's mu until it runs.
type joined struct {
	want change
	done chan struct{} // closed when size and err are set
	size int64
	err  error
}

// merge adds d to c. ok is false if both want the same thing to be different.
func (c change) merge(d change) (m change, ok bool) {
	m, ok = c, true
	pick := func(a *int32, b int32) {
		if *a != 0 && b != 0 && *a != b {
			ok = false
		}
		*a = max(*a, b)
	}
	m.gib = max(c.gib, d.gib) // larger is as good
	pick(&m.iops, d.iops)
	pick(&m.throughput, d.throughput)
	if c.kind != "" && d.kind != "" && c.kind != d.kind {
		ok = false
	}
	if d.kind != "" {
		m.kind = d.kind
	}
	return m, ok
}

// do has a change made, together with others, and returns the size that the volume has then.
func (c *coalescer) do(ctx context.Context, id string, want change) (int64, error) {
	j, err := c.join(id, want)
	if err != nil {
		return 0, err
	}
	select {
	case <-j.done:
		return j.size, j.err
	case <-ctx.Done():
		return 0, ctx.Err() // it goes on, and a repetition finds it done
	}
}

func (c *coalescer) join(id string, want change) (*joined, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if j := c.m[id]; j != nil {
		both, ok := j.want.merge(want)
		if !ok {
			return nil, fmt.Errorf("%w: another modification of %s is under way, to other values", backend.ErrUnavailable, id)
		}
		j.want = both
		return j, nil
	}
	j := &joined{want: want, done: make(chan struct{})}
	if c.m == nil {
		c.m = map[string]*joined{}
	}
	c.m[id] = j
	c.b.run.Add(1)
	time.AfterFunc(c.b.opt.Timing.Coalesce, func() { c.begin(id, j) })
	return j, nil
}

func (c *coalescer) begin(id string, j *joined) {
	defer c.b.run.Done()
	defer close(j.done)
	c.mu.Lock()
	delete(c.m, id)
	want := j.want
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.b.ctx, c.b.opt.Timing.Patience)
	defer cancel()
	j.size, j.err = c.b.modify(ctx, id, want)
}

// Expand implements backend.Controller.
func (b *Backend) Expand(ctx context.Context, id string, requiredBytes, limitBytes int64) (int64, error) {
	v, err := b.volume(ctx, id)
	if err != nil {
		return 0, err
	}
	if requiredBytes <= 0 && limitBytes <= 0 {
		return 0, fmt.Errorf("%w: no size", backend.ErrInvalid)
	}
	now := int64(aws.ToInt32(v.Size)) * gib
	if limitBytes > 0 && now > limitBytes {
		return 0, fmt.Errorf("%w: the volume has %d bytes already", backend.ErrOutOfRange, now)
	}
	want, err := sizeFor(requiredBytes, limitBytes, 1)
	if err != nil {
		return 0, err
	}
	if int64(want)*gib <= now {
		return now, nil
	}
	return b.pending.do(ctx, id, change{gib: want})
}

// Modify implements backend.Tunable.
func (b *Backend) Modify(ctx context.Context, id string, mutable map[string]string) error {
	c, err := b.parseClass(mutable, true)
	if err != nil {
		return err
	}
	v, err := b.volume(ctx, id)
	if err != nil {
		return err
	}
	want := change{kind: c.kind, iops: c.iops, throughput: c.throughput}
	if want.missing(v) == (change{}) {
		return nil
	}
	_, err = b.pending.do(ctx, id, want)
	return err
}

// missing is what of a change a volume does not have yet.
func (c change) missing(v types.Volume) change {
	var m change
	if c.gib > aws.ToInt32(v.Size) {
		m.gib = c.gib
	}
	if c.kind != "" && c.kind != v.VolumeType {
		m.kind = c.kind
	}
	if c.iops != 0 && c.iops != aws.ToInt32(v.Iops) {
		m.iops = c.iops
	}
	if c.throughput != 0 && c.throughput != aws.ToInt32(v.Throughput) {
		m.throughput = c.throughput
	}
	return m
}

// covers tells whether a modification brings what is missing.
func (c change) covers(m types.VolumeModification) bool {
	return c.gib <= aws.ToInt32(m.TargetSize) && (c.kind == "" || c.kind == m.TargetVolumeType) &&
		(c.iops == 0 || c.iops == aws.ToInt32(m.TargetIops)) && (c.throughput == 0 || c.throughput == aws.ToInt32(m.TargetThroughput))
}

// modify brings a volume to what is wanted, and waits until that counts; not until EC2 has moved all data (optimizing).
func (b *Backend) modify(ctx context.Context, id string, want change) (size int64, err error) {
	unlock, err := b.volLocks.lock(ctx, id)
	if err != nil {
		return 0, err
	}
	defer unlock()
	asked := time.Time{}
	err = b.poll(ctx, 0, func() error {
		v, err := b.volume(ctx, id)
		if err != nil {
			return err
		}
		size = int64(aws.ToInt32(v.Size)) * gib
		missing := want.missing(v)
		if missing == (change{}) {
			return nil
		}
		m, found, err := b.modified.get(ctx, id)
		if err != nil {
			return err
		}
		current := found && (asked.IsZero() || !aws.ToTime(m.StartTime).Before(asked))
		switch {
		case found && m.ModificationState == types.VolumeModificationStateModifying:
			return errNotYet
		case !asked.IsZero() && current && m.ModificationState == types.VolumeModificationStateFailed:
			return fmt.Errorf("%w: the modification failed: %s", backend.ErrUnavailable, aws.ToString(m.StatusMessage))
		case !asked.IsZero():
			return errNotYet // describes may be behind
		case found && m.ModificationState == types.VolumeModificationStateOptimizing && missing.covers(m):
			return errNotYet // it counts already, and the volume does not show it yet
		}
		t, err := b.askModify(ctx, id, missing)
		if isCode(err, codeModifying) && missing.covers(m) {
			return errNotYet
		}
		asked = t
		if err == nil {
			return errNotYet
		}
		return err
	})
	return size, err
}

// askModify returns the time, by EC2's clock, at which the modification began.
func (b *Backend) askModify(ctx context.Context, id string, c change) (time.Time, error) {
	out, err := b.ec2.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: aws.String(id), Size: optional(c.gib), VolumeType: c.kind, Iops: optional(c.iops), Throughput: optional(c.throughput)})
	if err != nil {
		err = translate("ModifyVolume", err)
		if isCode(err, "VolumeModificationRateExceeded") {
			err = fmt.Errorf("EC2 allows few modifications of a volume within 24 hours, and this one has had them; try again later: %w", err)
		}
		return time.Time{}, err
	}
	if out.VolumeModification == nil {
		return time.Unix(0, 0), nil
	}
	return aws.ToTime(out.VolumeModification.StartTime), nil
}
