package ebs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// change is the target of a modification; zero values mean no change.
type change struct {
	gib, iops, throughput int32
	kind                  types.VolumeType
}

// coalescer merges modifications of one volume that come at about the same time, as an expansion
// and a new class do: EC2 accepts only one at a time and few per day.
type coalescer struct {
	b  *Backend
	mu sync.Mutex
	m  map[string]*joined // by volume; guarded by mu
}

// joined are several requests for one volume, and their merged change. The coalescer's mu guards it
// until it runs.
type joined struct {
	parts []*request
	want  change
}

// request is the change that one caller wants.
type request struct {
	want change
	done chan struct{} // closed when size and err are set
	size int64
	err  error
}

// merge adds d to c. ok is false if they contradict each other.
func (c change) merge(d change) (m change, ok bool) {
	m, ok = c, true
	pick := func(a *int32, b int32) {
		if *a != 0 && b != 0 && *a != b {
			ok = false
		}
		*a = max(*a, b)
	}
	m.gib = max(c.gib, d.gib) // the larger size satisfies both
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

// do executes a change, possibly merged with others, and returns the size that the volume has
// afterwards.
func (c *coalescer) do(ctx context.Context, id string, want change) (int64, error) {
	r, err := c.join(id, want)
	if err != nil {
		return 0, err
	}
	select {
	case <-r.done:
		return r.size, r.err
	case <-ctx.Done():
		return 0, ctx.Err() // the change continues, and a retry finds it done
	}
}

func (c *coalescer) join(id string, want change) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &request{want: want, done: make(chan struct{})}
	if j := c.m[id]; j != nil {
		both, ok := j.want.merge(want)
		if !ok {
			return nil, fmt.Errorf("%w: another modification of %s to other values is running; retry later", backend.ErrUnavailable, id)
		}
		j.want, j.parts = both, append(j.parts, r)
		return r, nil
	}
	j := &joined{want: want, parts: []*request{r}}
	if c.m == nil {
		c.m = map[string]*joined{}
	}
	c.m[id] = j
	c.b.run.Add(1)
	time.AfterFunc(c.b.opt.Timing.Coalesce, func() { c.begin(id, j) })
	return r, nil
}

func (c *coalescer) begin(id string, j *joined) {
	defer c.b.run.Done()
	c.mu.Lock()
	delete(c.m, id)
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.b.ctx, c.b.opt.Timing.Patience)
	defer cancel()
	size, err := c.b.modify(ctx, id, j.want)
	alone := len(j.parts) > 1 && (errors.Is(err, backend.ErrInvalid) || errors.Is(err, backend.ErrOutOfRange))
	for _, r := range j.parts {
		if r.size, r.err = size, err; alone { // one bad request must not make the others fail
			r.size, r.err = c.b.modify(ctx, id, r.want)
		}
		close(r.done)
	}
}

// Expand implements backend.Controller.
func (b *Backend) Expand(ctx context.Context, id string, requiredBytes, limitBytes int64) (int64, error) {
	v, err := b.volume(ctx, id)
	if err != nil {
		return 0, err
	}
	if requiredBytes <= 0 && limitBytes <= 0 {
		return 0, fmt.Errorf("%w: the size is missing", backend.ErrInvalid)
	}
	now := int64(aws.ToInt32(v.Size)) * gib
	if limitBytes > 0 && now > limitBytes {
		return 0, fmt.Errorf("%w: the volume already has %d bytes", backend.ErrOutOfRange, now)
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

// ownIOPS is the type whose IOPS EC2 itself derives from the size. It shows them as if they had
// been requested, so they are ignored.
const ownIOPS = types.VolumeTypeGp2

// missing returns the part of a change that must be requested. Values that the volume already has
// are left out, unless its type changes: EC2 then keeps nothing of the old type and starts with the
// defaults of the new one.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyVolume.html
func (c change) missing(v types.Volume) change {
	var m change
	if c.gib > aws.ToInt32(v.Size) {
		m.gib = c.gib
	}
	if c.kind != "" && c.kind != v.VolumeType {
		m.kind, m.iops, m.throughput = c.kind, c.iops, c.throughput
		return m
	}
	if c.iops != 0 && (c.iops != aws.ToInt32(v.Iops) || v.VolumeType == ownIOPS) {
		m.iops = c.iops
	}
	if c.throughput != 0 && c.throughput != aws.ToInt32(v.Throughput) {
		m.throughput = c.throughput
	}
	return m
}

// covers tells whether a modification brings everything that is missing.
func (c change) covers(m types.VolumeModification) bool {
	return c.gib <= aws.ToInt32(m.TargetSize) && (c.kind == "" || c.kind == m.TargetVolumeType) &&
		(c.iops == 0 || c.iops == aws.ToInt32(m.TargetIops)) && (c.throughput == 0 || c.throughput == aws.ToInt32(m.TargetThroughput))
}

// modification is a running modification.
type modification struct {
	id   string
	want change
	sent bool      // EC2 has accepted the request
	at   time.Time // when it began, by EC2's clock; zero if EC2 did not say
	in   time.Time // when it was first seen to be in effect, by this machine's clock
}

// modify changes a volume and waits until the change is in effect. It does not wait until EC2 has
// moved all data (optimizing), and attaching and detaching need not wait for it.
func (b *Backend) modify(ctx context.Context, id string, want change) (size int64, err error) {
	unlock, err := b.modLocks.lock(ctx, id)
	if err != nil {
		return 0, err
	}
	defer unlock()
	m := modification{id: id, want: want}
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
		last, found, err := b.modified.get(ctx, id)
		if err != nil {
			return err
		}
		if !found {
			last = types.VolumeModification{}
		}
		return b.step(ctx, &m, missing, last)
	})
	return size, err
}

// step requests what is missing, or looks at the state of the request. last is the volume's last
// modification, if any.
func (b *Backend) step(ctx context.Context, m *modification, missing change, last types.VolumeModification) error {
	state := last.ModificationState
	counts := state == types.VolumeModificationStateOptimizing || state == types.VolumeModificationStateCompleted
	ours := m.sent && !m.at.IsZero() && !aws.ToTime(last.StartTime).Before(m.at)
	switch {
	case state == types.VolumeModificationStateModifying:
		return errNotYet
	case ours && state == types.VolumeModificationStateFailed:
		return fmt.Errorf("%w: the modification failed: %s", backend.ErrUnavailable, aws.ToString(last.StatusMessage))
	case ours && counts && !missing.covers(last):
		return fmt.Errorf("%w: EC2 accepted the modification, but made the volume %s, which was not requested", backend.ErrInvalid, targetOf(last))
	case ours && counts:
		return m.shown(b.opt.Timing.Settle)
	case m.sent:
		return errNotYet // describes may be outdated
	case state == types.VolumeModificationStateOptimizing && missing.covers(last):
		return m.shown(b.opt.Timing.Settle) // it is in effect, but the volume does not show it yet
	}
	at, err := b.askModify(ctx, m.id, missing)
	if isCode(err, codeModifying) && missing.covers(last) {
		return errNotYet
	}
	m.sent, m.at = err == nil, at
	if err == nil {
		return errNotYet
	}
	return err
}

// shown waits until the volume shows a change that is in effect, for as long as describes may be
// outdated.
func (m *modification) shown(settle time.Duration) error {
	now := time.Now()
	if m.in.IsZero() {
		m.in = now
	}
	if now.Sub(m.in) > settle {
		return fmt.Errorf("%w: EC2 reports the modification as complete, but still shows the old values of the volume", backend.ErrUnavailable)
	}
	return errNotYet
}

// targetOf describes the result of a modification.
func targetOf(m types.VolumeModification) string {
	s := fmt.Sprintf("%s with %d GiB", m.TargetVolumeType, aws.ToInt32(m.TargetSize))
	if n := aws.ToInt32(m.TargetIops); n > 0 {
		s += fmt.Sprintf(", %d IOPS", n)
	}
	if n := aws.ToInt32(m.TargetThroughput); n > 0 {
		s += fmt.Sprintf(", %d MiB/s", n)
	}
	return s
}

// askModify requests a modification and returns when it began, by EC2's clock; zero if EC2 did not
// say.
func (b *Backend) askModify(ctx context.Context, id string, c change) (time.Time, error) {
	out, err := b.ec2.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: aws.String(id), Size: optional(c.gib), VolumeType: c.kind, Iops: optional(c.iops), Throughput: optional(c.throughput)})
	if err != nil {
		err = translate("ModifyVolume", err)
		if isCode(err, "VolumeModificationRateExceeded") {
			err = fmt.Errorf("EC2 allows only a few modifications of a volume within 24 hours; try again later: %w", err)
		}
		return time.Time{}, err
	}
	if out.VolumeModification == nil {
		return time.Time{}, nil
	}
	return aws.ToTime(out.VolumeModification.StartTime), nil
}
