package ebs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// Options configure Open. The zero value is for a node in EC2; a controller needs Cluster.
type Options struct {
	// Region defaults to that of the SDK's environment or of the metadata service. Endpoint of EC2
	// defaults to the region's.
	Region, Endpoint string
	// MetadataEndpoint of the instance metadata service defaults to the SDK's.
	MetadataEndpoint string
	// Metadata lists the sources that tell which instance this is, in order: SourceIMDS,
	// SourceKubernetes. Default: both, in this order.
	Metadata []string
	// Cluster is the id of the cluster that owns the volumes. Two clusters in one account need
	// different ids. Only the controller half needs it.
	Cluster string
	// Tags are set on all volumes and snapshots in addition to the driver's own.
	Tags map[string]string
	// Zone is the zone for volumes without a requested place. Default: a hash of the name chooses
	// it.
	Zone string
	// Instance is the id of this node's instance. Default: that of the metadata service or
	// NodeObject.
	Instance string
	// NodeObject reads the Node object of this node, if the metadata service cannot be reached. It
	// may be nil.
	NodeObject func(ctx context.Context) (NodeObject, error)
	// MaxVolumes replaces the limit that is computed for this node, and ReservedVolumes the part of
	// it that other volumes use. 0: detect.
	MaxVolumes, ReservedVolumes int64
	// Sys and Dev are /sys and /dev. Links is the directory of disk/by-id; it defaults to Dev.
	Sys, Dev, Links string
	// Model is the model name of the volumes' devices; it defaults to that of EBS. Devices of other
	// models are refused.
	Model string
	// MaxAttempts is the number of attempts of each call, with backoff and throttling in between.
	// Default: 8.
	MaxAttempts int
	// HTTPClient replaces the SDK's client.
	HTTPClient aws.HTTPClient
	// Log gets a line for each EC2 call: calls that change something at level info, others at
	// debug. It also gets a warning for each listed volume or snapshot whose tags are damaged.
	// Default: slog.Default.
	Log    *slog.Logger
	Timing Timing
}

// Timing has the waiting times. Zero values are replaced by those of DefaultTiming.
type Timing struct {
	Batch        time.Duration // how long describes are collected
	Coalesce     time.Duration // how long modifications are collected
	CreateFirst  time.Duration // from the creation to the first describe
	Poll         time.Duration // from the first describe to the second; grows from there
	PollMost     time.Duration
	StuckAttach  time.Duration // an attachment that is not attached by then never will be
	Settle       time.Duration // by then describes show every change
	Patience     time.Duration // how long a caller without a deadline waits
	DeviceAppear time.Duration // from the attachment until the device appears on the node
	Forget       time.Duration // after that, bad tokens and device names are tried again
}

// DefaultTiming is for the real EC2: creating takes 1.5 s, sometimes 4 s; attaching takes 1 to 4 s.
var DefaultTiming = Timing{Batch: 500 * time.Millisecond, Coalesce: 2 * time.Second, CreateFirst: 1250 * time.Millisecond, Poll: time.Second, PollMost: 10 * time.Second,
	StuckAttach: 90 * time.Second, Settle: 30 * time.Second, Patience: 4 * time.Minute, DeviceAppear: 30 * time.Second, Forget: 12 * time.Hour}

func (t Timing) withDefaults() Timing {
	d := DefaultTiming
	return Timing{cmp.Or(t.Batch, d.Batch), cmp.Or(t.Coalesce, d.Coalesce), cmp.Or(t.CreateFirst, d.CreateFirst), cmp.Or(t.Poll, d.Poll), cmp.Or(t.PollMost, d.PollMost),
		cmp.Or(t.StuckAttach, d.StuckAttach), cmp.Or(t.Settle, d.Settle), cmp.Or(t.Patience, d.Patience), cmp.Or(t.DeviceAppear, d.DeviceAppear), cmp.Or(t.Forget, d.Forget)}
}

// Backend implements backend.Backend, Snapshotter and Tunable.
type Backend struct {
	opt  Options
	ec2  api
	meta metadata

	volumes   *batcher[types.Volume]
	named     *batcher[[]types.Volume]
	instances *batcher[types.Instance]
	snapshots *batcher[types.Snapshot]
	snapNamed *batcher[[]types.Snapshot]
	modified  *batcher[types.VolumeModification]

	nameLocks, volLocks keyed
	// modLocks: held while a volume is modified. It is a separate lock because a modification may
	// take minutes, and attaching and detaching must not wait for it.
	modLocks    keyed
	onceLocks   keyed                       // held while common values are fetched: instance types, and zones
	regionZones memory[[]zone]              // under one key
	suspects    memory[bool]                // ids that EC2 did not know: described separately, so that they do not make a batch fail
	gone        memory[bool]                // volumes that this process deleted
	tokens      memory[int]                 // number of the next token of a name
	limits      memory[limits]              // by volume type
	types       memory[machine]             // by instance type
	formats     memory[backend.FormatState] // by volume: describes may be older than what was recorded
	names       nameAllocator
	pending     coalescer

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	run  sync.WaitGroup
}

var (
	_ backend.Backend     = (*Backend)(nil)
	_ backend.Snapshotter = (*Backend)(nil)
	_ backend.Tunable     = (*Backend)(nil)
)

// Open makes no call to EC2. The caller closes the backend.
func Open(ctx context.Context, o Options) (*Backend, error) {
	o.Timing = o.Timing.withDefaults()
	o.Log = requestid.Logger(o.Log)
	o.MaxAttempts = cmp.Or(o.MaxAttempts, 8)
	o.Sys, o.Dev = cmp.Or(o.Sys, "/sys"), cmp.Or(o.Dev, "/dev")
	o.Links = cmp.Or(o.Links, o.Dev)
	o.Model = cmp.Or(o.Model, ebsModel)
	for k, v := range o.Tags {
		if err := checkTag(k, v); err != nil {
			return nil, err
		}
	}
	if most := maxTags - reservedTags - 3; len(o.Tags) > most { // name, cluster, origin
		return nil, fmt.Errorf("%d tags are configured for all volumes, but EC2 allows only %d more; remove some", len(o.Tags), most)
	}
	if o.Cluster != "" && (!plain.MatchString(o.Cluster) || len(o.Cluster) > 100) {
		return nil, errors.New("the cluster id must have 1 to 100 letters, digits, dots, dashes and underscores")
	}
	for _, s := range o.Metadata {
		if s != SourceIMDS && s != SourceKubernetes {
			return nil, fmt.Errorf("metadata source %q: must be %s or %s", s, SourceIMDS, SourceKubernetes)
		}
	}
	cfg, err := loadConfig(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("configure the AWS SDK: %w", err)
	}
	b := &Backend{opt: o}
	b.ctx, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	b.meta = newMetadata(cfg, o)
	if cfg.Region == "" {
		i, err := b.meta.identity(ctx)
		if err != nil || i.region == "" {
			b.stop()
			return nil, errors.Join(errNoRegion, err)
		}
		cfg.Region = i.region
	}
	b.ec2 = newAPI(cfg, o)
	b.suspects.last, b.gone.last, b.tokens.last, b.limits.last, b.types.last, b.regionZones.last, b.formats.last = o.Timing.Forget, o.Timing.Forget, o.Timing.Forget, o.Timing.Forget, o.Timing.Forget, o.Timing.Forget, o.Timing.Forget
	b.names.bad.last, b.names.settle = o.Timing.Forget, o.Timing.Settle
	b.pending.b = b
	b.makeBatchers()
	return b, nil
}

// Close ends background work and waits for it.
func (b *Backend) Close() error {
	b.stop()
	b.run.Wait()
	return nil
}

var (
	volumeID   = regexp.MustCompile(`^vol-([0-9a-f]{8}|[0-9a-f]{17})$`)
	snapshotID = regexp.MustCompile(`^snap-([0-9a-f]{8}|[0-9a-f]{17})$`)
	instanceID = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)
)

const gib = 1 << 30

// errNotYet makes poll continue.
var errNotYet = errors.New("not yet")

// poll calls look at growing intervals until it returns anything but errNotYet. It retries after
// temporary errors.
func (b *Backend) poll(ctx context.Context, first time.Duration, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, b.opt.Timing.Patience)
	defer cancel()
	wait, next := first, b.opt.Timing.Poll
	for {
		if err := pause(ctx, wait); err != nil {
			return err
		}
		err := look()
		if !errors.Is(err, errNotYet) {
			return err
		}
		wait = next
		next = min(next*9/5, b.opt.Timing.PollMost)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// memory remembers values by key for some time.
type memory[V any] struct {
	last time.Duration
	mu   sync.Mutex
	m    map[string]remembered[V] // guarded by mu
}

type remembered[V any] struct {
	v     V
	until time.Time
}

// memoryMost limits how many values are remembered; far more than the number of volumes in a
// cluster that fail at the same time.
const memoryMost = 20000

func (m *memory[V]) get(key string) (v V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.m[key]
	if !ok || time.Now().After(r.until) {
		return v, false
	}
	return r.v, true
}

func (m *memory[V]) set(key string, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.m == nil {
		m.m = map[string]remembered[V]{}
	}
	if len(m.m) >= memoryMost {
		for k, r := range m.m { // remove expired values; if that is not enough, any values
			if now.After(r.until) || len(m.m) >= memoryMost {
				delete(m.m, k)
			}
		}
	}
	m.m[key] = remembered[V]{v, now.Add(m.last)}
}

func (m *memory[V]) drop(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.m, key)
}
