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

// Options configure Open. The zero value is that of a node in EC2; a controller needs Cluster.
type Options struct {
	// Region, by default from the SDK's environment or the metadata service. Endpoint of EC2, by default the region's.
	Region, Endpoint string
	// MetadataEndpoint of the instance metadata service, by default the SDK's.
	MetadataEndpoint string
	// Metadata says who is asked which instance this is, in this order: SourceIMDS, SourceKubernetes. Default: both, in this order.
	Metadata []string
	// Cluster names whose volumes these are. Two clusters of one account need two names. Needed by the controller half alone.
	Cluster string
	// Tags are set on all volumes and snapshots besides ours.
	Tags map[string]string
	// Zone is where volumes are made for which no place is asked for; by default one that the name's hash chooses.
	Zone string
	// Instance is the id of this node's; by default that which the metadata service tells, or NodeObject.
	Instance string
	// NodeObject reads what Kubernetes knows of this node, for where the metadata service cannot be reached. May be nil.
	NodeObject func(ctx context.Context) (NodeObject, error)
	// MaxVolumes replaces the limit that is computed for this node, ReservedVolumes what others use of that. 0: found out.
	MaxVolumes, ReservedVolumes int64
	// Sys and Dev are /sys and /dev; Links is where disk/by-id is, by default Dev.
	Sys, Dev, Links string
	// Model is what the devices of volumes call themselves, by default as those of EBS do. Devices of other models are refused.
	Model string
	// MaxAttempts of each call, with backoff and throttling in between. Default 8.
	MaxAttempts int
	// HTTPClient replaces the SDK's.
	HTTPClient aws.HTTPClient
	// Log gets a line for each call of EC2: those that change something as information, the rest for
	// debugging. Default: slog.Default.
	Log    *slog.Logger
	Timing Timing
}

// Timing is how long things are waited for. Zero values become those of DefaultTiming.
type Timing struct {
	Batch        time.Duration // describes are gathered for this long
	Coalesce     time.Duration // modifications are
	CreateFirst  time.Duration // from the creation to the first look
	Poll         time.Duration // from the first look to the second; grows from there
	PollMost     time.Duration
	StuckAttach  time.Duration // an attachment that is not attached by then never will be
	Settle       time.Duration // by then describes show what has happened
	Patience     time.Duration // a caller without a deadline waits no longer
	DeviceAppear time.Duration // from the attachment to the device, on the node
	Forget       time.Duration // tokens and device names that were found bad are tried again
}

// DefaultTiming is that of the real EC2: creating takes 1.5 s, at times 4; attaching 1 to 4 s.
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
	// modLocks: who modifies a volume. Apart, as that may take minutes for which nobody may wait who
	// attaches or detaches.
	modLocks    keyed
	onceLocks   keyed                       // who asks for what all need: by instance type, and for zones
	regionZones memory[[]zone]              // under one key
	suspects    memory[bool]                // ids that EC2 did not know: asked for apart, so that they poison no batch
	gone        memory[bool]                // volumes that we deleted
	tokens      memory[int]                 // which number of a name's token comes next
	limits      memory[limits]              // by volume type
	types       memory[machine]             // by instance type
	formats     memory[backend.FormatState] // by volume: describes lag behind what was kept
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

// Open makes no call to EC2. Close the backend.
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
		return nil, fmt.Errorf("%d tags for all volumes, and EC2 leaves room for %d", len(o.Tags), most)
	}
	if o.Cluster != "" && (!plain.MatchString(o.Cluster) || len(o.Cluster) > 100) {
		return nil, errors.New("a cluster's id has 1 to 100 letters, digits, dots, dashes and underscores")
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

// Close ends what runs in the background and waits for it.
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

// errNotYet lets poll go on.
var errNotYet = errors.New("not yet")

// poll looks again and again until look returns something else than errNotYet, at growing intervals. Errors that will pass are waited out.
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

// memory remembers things by key for some time.
type memory[V any] struct {
	last time.Duration
	mu   sync.Mutex
	m    map[string]remembered[V] // guarded by mu
}

type remembered[V any] struct {
	v     V
	until time.Time
}

// memoryMost bounds what is remembered; far more than clusters have volumes at a time that go wrong.
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
		for k, r := range m.m { // what is old; failing that, what comes first
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
