package ec2test

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// attachment is one of a volume.
type attachment struct {
	instance, device, state string
	card                    int
	at                      time.Time
}

// modification is the last one of a volume.
type modification struct {
	state            string
	start, end       time.Time
	original, target shape
}

// shape is what a modification changes.
type shape struct {
	kind             string
	size             int64
	iops, throughput int64
}

// volumeState is what a describe shows of a volume.
type volumeState struct {
	id, zone, state  string
	created          time.Time
	snapshot, source string
	encrypted, multi bool
	kms              string
	tags             map[string]string
	attached         []attachment
	modified         *modification
	impaired         bool
	shape
}

func (v volumeState) clone() volumeState {
	v.tags, v.attached = maps.Clone(v.tags), slices.Clone(v.attached)
	if v.modified != nil {
		m := *v.modified
		v.modified = &m
	}
	return v
}

// stamped is a state from a moment on.
type stamped[T any] struct {
	at   time.Time
	what T
	gone bool
}

// step is something that happens to a volume at a time.
type step struct {
	at time.Time
	do func()
}

type volume struct {
	volumeState
	seq           int64
	shown         []stamped[volumeState] // rising; what describes have to choose from
	steps         []step                 // rising
	modifications []time.Time            // of the last 24 hours
	gone          bool
}

// settle carries out what has become due.
func (s *Server) settle(now time.Time) {
	for id, v := range s.volumes {
		for len(v.steps) > 0 && !v.steps[0].at.After(now) {
			st := v.steps[0]
			v.steps = v.steps[1:]
			st.do()
			s.show(v, st.at)
		}
		if v.gone && now.Sub(v.shown[len(v.shown)-1].at) > s.delays.Lag+time.Minute {
			delete(s.volumes, id)
		}
	}
	for _, x := range s.snapshots {
		if x.state == "pending" && !x.ready.After(now) {
			x.state = "completed"
			x.shown = append(x.shown, stamped[string]{at: x.ready, what: x.state})
		}
	}
}

// show makes the state of a volume one that describes will see.
func (s *Server) show(v *volume, at time.Time) {
	v.shown = append(v.shown, stamped[volumeState]{at, v.clone(), v.gone})
	for len(v.shown) > 1 && at.Sub(v.shown[1].at) > s.delays.Lag {
		v.shown = v.shown[1:]
	}
}

// seen is what a describe sees.
func seen[T any](shown []stamped[T], now time.Time, lag time.Duration) (what T, ok bool) {
	for i := len(shown) - 1; i >= 0; i-- {
		if !shown[i].at.After(now.Add(-lag)) {
			return shown[i].what, !shown[i].gone
		}
	}
	return what, false
}

// after has something happen to a volume, at once if it takes no time.
func (s *Server) after(v *volume, now time.Time, d time.Duration, do func()) {
	if d <= 0 {
		do()
		return
	}
	at := now.Add(d)
	i := sort.Search(len(v.steps), func(i int) bool { return v.steps[i].at.After(at) })
	v.steps = slices.Insert(v.steps, i, step{at, do})
}

type tokenUse struct {
	hash   string
	volume string
	answer xmlVolume
	at     time.Time
}

// tokenTime is how long EC2 remembers a client token.
const tokenTime = 12 * time.Hour

// hashOf is that of all parameters that a repetition must repeat.
func hashOf(p url.Values) string {
	p = maps.Clone(p)
	delete(p, "ClientToken")
	h := sha256.Sum256([]byte(p.Encode()))
	return hex.EncodeToString(h[:])
}

// limits of the types of volumes, https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volume-types.html
type kindLimits struct {
	minGiB, maxGiB                int64
	minIOPS, maxIOPS, perGiB, std int64
	minMiBs, maxMiBs, stdMiBs     int64
}

var kinds = map[string]kindLimits{
	"gp2": {minGiB: 1, maxGiB: 16384}, "gp3": {minGiB: 1, maxGiB: 65536, minIOPS: 3000, maxIOPS: 80000, perGiB: 500, std: 3000, minMiBs: 125, maxMiBs: 2000, stdMiBs: 125},
	"io1": {minGiB: 4, maxGiB: 16384, minIOPS: 100, maxIOPS: 64000, perGiB: 50}, "io2": {minGiB: 4, maxGiB: 65536, minIOPS: 100, maxIOPS: 256000, perGiB: 1000},
	"st1": {minGiB: 125, maxGiB: 16384}, "sc1": {minGiB: 125, maxGiB: 16384}, "standard": {minGiB: 1, maxGiB: 1024},
}

// checkShape is EC2's validation of what a volume is to be; it fills in defaults.
func checkShape(x *shape) error {
	k, ok := kinds[x.kind]
	switch {
	case !ok:
		return fail("InvalidParameterValue", "Invalid value '%s' for volumeType.", x.kind)
	case x.size > k.maxGiB:
		return fail("InvalidParameterValue", "Volume of %dGiB is too large for volume type %s; maximum is %dGiB", x.size, x.kind, k.maxGiB)
	case x.size < k.minGiB:
		return fail("InvalidParameterValue", "Volume of %dGiB is too small; minimum is %dGiB.", x.size, k.minGiB)
	case x.iops != 0 && k.maxIOPS == 0:
		return fail("InvalidParameterCombination", "The parameter iops is not supported for %s volumes.", x.kind)
	case x.iops == 0 && k.maxIOPS > 0 && k.std == 0:
		return fail("MissingParameter", "The request must contain the parameter iops")
	case x.iops > k.maxIOPS:
		return fail("InvalidParameterValue", "Volume iops of %d is too high; maximum is %d.", x.iops, k.maxIOPS)
	case x.iops != 0 && x.iops < k.minIOPS:
		return fail("InvalidParameterValue", "Volume iops of %d is too low; minimum is %d.", x.iops, k.minIOPS)
	case x.iops > k.std && x.iops > k.perGiB*x.size:
		return fail("InvalidParameterValue", "Iops to volume size ratio of %d is too high; maximum is %d", x.iops/x.size, k.perGiB)
	case x.throughput != 0 && k.maxMiBs == 0:
		return fail("InvalidParameterCombination", "The parameter throughput is not supported for %s volumes.", x.kind)
	case x.throughput > k.maxMiBs:
		return fail("InvalidParameterValue", "Throughput of %d is too high; maximum is %d.", x.throughput, k.maxMiBs)
	case x.throughput != 0 && x.throughput < k.minMiBs:
		return fail("InvalidParameterValue", "Throughput of %d is too low; minimum is %d.", x.throughput, k.minMiBs)
	}
	if x.iops == 0 {
		x.iops = k.std
	}
	if x.throughput == 0 {
		x.throughput = k.stdMiBs
	}
	if x.throughput*4 > max(x.iops, 1) && k.maxMiBs > 0 {
		return fail("InvalidParameterValue", "Throughput to iops ratio of %f is too high; maximum is 0.250000", float64(x.throughput)/float64(x.iops))
	}
	return nil
}

func (s *Server) createVolume(q *request) ([]part, error) {
	zone, snapID, token := q.str("AvailabilityZone"), q.str("SnapshotId"), q.str("ClientToken")
	v := &volume{volumeState: volumeState{zone: zone, snapshot: snapID, kms: q.str("KmsKeyId"), encrypted: q.flag("Encrypted"), multi: q.flag("MultiAttachEnabled"),
		tags: q.tags("volume"), shape: shape{kind: q.str("VolumeType"), size: q.num("Size"), iops: q.num("Iops"), throughput: q.num("Throughput")}}}
	if v.kind == "" {
		v.kind = "gp2"
	}
	if q.err != nil {
		return nil, q.err
	}
	if !slices.Contains(s.opt.Zones, zone) {
		return nil, fail("InvalidZone.NotFound", "The zone '%s' does not exist.", zone)
	}
	var from *snapshot
	if snapID != "" {
		if from = s.snapshots[snapID]; from == nil {
			return nil, fail("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", snapID)
		}
		if from.state != "completed" {
			return nil, fail("IncorrectState", "Snapshot '%s' is not 'completed'.", snapID)
		}
		if v.size == 0 {
			v.size = from.size
		}
		if v.size < from.size {
			return nil, fail("InvalidParameterValue", "Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", v.size, snapID, from.size)
		}
		v.encrypted = v.encrypted || from.encrypted
	}
	if v.kms != "" && !v.encrypted {
		return nil, fail("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
	}
	if v.multi && v.kind != "io1" && v.kind != "io2" {
		return nil, fail("InvalidParameterCombination", "Multi-Attach is only supported for io1 and io2 volumes")
	}
	return s.made(q, v, token, func() string {
		if from != nil {
			return from.data
		}
		return ""
	})
}

func (s *Server) copyVolumes(q *request) ([]part, error) {
	id, token := q.str("SourceVolumeId"), q.str("ClientToken")
	from, err := s.volume(id)
	if err != nil {
		return nil, err
	}
	v := &volume{volumeState: volumeState{zone: from.zone, source: id, kms: q.str("KmsKeyId"), encrypted: q.flag("Encrypted") || from.encrypted, tags: q.tags("volume"),
		shape: shape{kind: q.str("VolumeType"), size: q.num("Size"), iops: q.num("Iops"), throughput: q.num("Throughput")}}}
	if from.state != "available" && from.state != "in-use" {
		return nil, fail("IncorrectState", "Volume '%s' is in the '%s' state.", id, from.state)
	}
	if v.kind == "" {
		v.kind = from.kind
	}
	if v.size == 0 {
		v.size = from.size
	}
	if v.size < from.size {
		return nil, fail("InvalidParameterValue", "The size of the copy must be at least that of the source, %d GiB", from.size)
	}
	return s.made(q, v, token, func() string { return from.id })
}

// made is what creating and copying have in common, from the token on.
func (s *Server) made(q *request, v *volume, token string, data func() string) ([]part, error) {
	wrap := func(x xmlVolume) []part {
		if v.source != "" {
			return []part{list("volumeSet", []xmlVolume{x})}
		}
		return []part{{"", x}}
	}
	if err := checkShape(&v.shape); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	// As EC2: the limits are looked at before the token.
	total, n := v.size, 1
	for _, o := range s.volumes {
		if !o.gone {
			total, n = total+o.size, n+1
		}
	}
	if l := s.opt.Limits; l.Volumes > 0 && n > l.Volumes || l.TotalGiB > 0 && total > l.TotalGiB {
		return nil, fail("VolumeLimitExceeded", "You have exceeded the limit of volumes")
	}
	hash := hashOf(q.p)
	if t, ok := s.tokens[token]; ok && token != "" && q.now.Sub(t.at) < tokenTime {
		if t.hash != hash {
			return nil, fail("IdempotentParameterMismatch", "The parameters of this request are inconsistent with those of the previous request that used this client token")
		}
		if o := s.volumes[t.volume]; o != nil && !o.gone {
			return wrap(o.xml()), nil
		}
		return wrap(t.answer), nil // burnt
	}
	s.seq++
	v.id, v.created, v.state, v.seq = newID("vol-"), q.now, "creating", s.seq
	if s.disks != nil {
		if err := s.disks.create(v.id, v.size<<30, data()); err != nil {
			return nil, err
		}
	}
	s.volumes[v.id] = v
	answer := v.xml()
	bad := v.kms != "" && !slices.Contains(s.opt.KMSKeys, v.kms)
	s.show(v, q.now)
	s.after(v, q.now, s.delays.Create, func() {
		v.state = "available"
		v.gone = bad
	})
	s.show(v, q.now)
	if token != "" {
		s.tokens[token] = tokenUse{hash, v.id, answer, q.now}
	}
	return wrap(answer), nil
}

func (s *Server) volume(id string) (*volume, error) {
	if !regexp.MustCompile(`^vol-([0-9a-f]{8}|[0-9a-f]{17})$`).MatchString(id) {
		return nil, fail("InvalidParameterValue", "Value (%s) for parameter volumeId is invalid. Expected: 'vol-...'.", id)
	}
	v := s.volumes[id]
	if v == nil || v.gone {
		return nil, fail("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
	}
	return v, nil
}

func (s *Server) deleteVolume(q *request) ([]part, error) {
	v, err := s.volume(q.str("VolumeId"))
	if err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	switch v.state {
	case "in-use":
		return nil, fail("VolumeInUse", "Volume %s is currently attached to %s", v.id, v.attached[0].instance)
	case "available", "error":
	case "deleting":
		return done(), nil
	default:
		return nil, fail("IncorrectState", "The volume '%s' is in the '%s' state.", v.id, v.state)
	}
	v.state = "deleting"
	s.show(v, q.now)
	s.after(v, q.now, s.delays.Delete, func() {
		v.gone = true
		if s.disks != nil {
			s.disks.remove(v.id)
		}
	})
	s.show(v, q.now)
	return done(), nil
}

func (s *Server) attachVolume(q *request) ([]part, error) {
	id, instID, dev, card := q.str("VolumeId"), q.str("InstanceId"), q.str("Device"), int(q.num("EbsCardIndex"))
	v, err := s.volume(id)
	if err != nil {
		return nil, err
	}
	in, err := s.instance(instID)
	if err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	if err := s.mayAttach(v, in, dev, card); err != nil {
		return nil, err
	}
	a := attachment{instance: instID, device: dev, state: "attaching", card: card, at: q.now}
	v.attached = append(v.attached, a)
	v.state = "in-use"
	s.show(v, q.now)
	if !s.stuck[dev] {
		s.after(v, q.now, s.delays.Attach, func() {
			for i := range v.attached {
				if v.attached[i].instance == instID && v.attached[i].state == "attaching" {
					v.attached[i].state = "attached"
					if s.disks != nil {
						s.disks.attach(v.id, in.Dir)
					}
				}
			}
		})
		s.show(v, q.now)
	}
	return []part{{"", a.xml(id)}}, nil
}

var deviceName = regexp.MustCompile(`^/dev/(sd[b-z]|xvd[b-z]|xvd[a-c][a-z]|xvdd[a-x])$`)

func (s *Server) mayAttach(v *volume, in *instance, dev string, card int) error {
	kind := instanceTypes[in.Type]
	n, onCard := 0, 0
	for _, o := range s.volumes {
		for _, a := range o.attached {
			if a.instance != in.ID || o.gone {
				continue
			}
			if a.device == dev && o != v {
				return fail("InvalidParameterValue", "Invalid value '%s' for unixDevice. Attachment point %s is already in use", dev, dev)
			}
			n++
			if a.card == card {
				onCard++
			}
		}
	}
	used := n
	if kind.Shared {
		used += in.ENIs
	}
	switch {
	case in.State != "running" && in.State != "stopped":
		return fail("IncorrectState", "Instance '%s' is not 'running'.", in.ID)
	case !deviceName.MatchString(dev):
		return fail("InvalidParameterValue", "Value (%s) for parameter device is invalid. %s is not a valid EBS device name.", dev, dev)
	case v.zone != in.Zone:
		return fail("InvalidVolume.ZoneMismatch", "The volume '%s' is not in the same availability zone as instance '%s'", v.id, in.ID)
	case len(v.attached) > 0 && !v.multi:
		return fail("VolumeInUse", "%s is already attached to an instance", v.id)
	case v.state != "available" && v.state != "in-use":
		return fail("IncorrectState", "Volume '%s' is not 'available'.", v.id)
	case card >= max(kind.Cards, 1):
		return fail("InvalidParameterValue", "EBS card %d does not exist", card)
	case used+1 > kind.Max:
		return fail("AttachmentLimitExceeded", "The maximum number of attachments for instance '%s' has been reached", in.ID)
	}
	if kind.Cards > 1 && onCard+1 > kind.Max/kind.Cards {
		return fail("AttachmentLimitExceeded", "The maximum number of attachments of EBS card %d has been reached", card)
	}
	return nil
}

func (s *Server) detachVolume(q *request) ([]part, error) {
	v, err := s.volume(q.str("VolumeId"))
	if err != nil {
		return nil, err
	}
	instID, force := q.str("InstanceId"), q.flag("Force")
	q.str("Device")
	if err := q.check(); err != nil {
		return nil, err
	}
	if force {
		s.strange = append(s.strange, "detached by force: "+v.id)
	}
	if len(v.attached) == 0 {
		return nil, fail("IncorrectState", "Volume '%s' is in the '%s' state.", v.id, v.state)
	}
	i := slices.IndexFunc(v.attached, func(a attachment) bool { return a.instance == instID || instID == "" })
	if i < 0 {
		return nil, fail("InvalidAttachment.NotFound", "The volume '%s' is not attached to instance '%s'", v.id, instID)
	}
	if v.attached[i].state == "detaching" && !force {
		return nil, fail("IncorrectState", "Volume '%s' is in the 'detaching' state.", v.id)
	}
	v.attached[i].state = "detaching"
	answer := v.attached[i]
	s.show(v, q.now)
	if !s.slowOff || s.instances[answer.instance].State != "running" {
		s.after(v, q.now, s.delays.Detach, func() { s.detached(v, answer.instance) })
		s.show(v, q.now)
	}
	return []part{{"", answer.xml(v.id)}}, nil
}

func (s *Server) detached(v *volume, instance string) {
	v.attached = slices.DeleteFunc(v.attached, func(a attachment) bool { return a.instance == instance })
	if len(v.attached) == 0 && v.state == "in-use" {
		v.state = "available"
	}
	if s.disks != nil {
		s.disks.detach(v.id)
	}
}

func (s *Server) modifyVolume(q *request) ([]part, error) {
	v, err := s.volume(q.str("VolumeId"))
	if err != nil {
		return nil, err
	}
	target := v.shape
	if n := q.num("Size"); n != 0 {
		target.size = n
	}
	if k := q.str("VolumeType"); k != "" && k != v.kind {
		target.kind, target.iops, target.throughput = k, 0, 0
	}
	if n := q.num("Iops"); n != 0 {
		target.iops = n
	}
	if n := q.num("Throughput"); n != 0 {
		target.throughput = n
	}
	if target.size < v.size {
		return nil, fail("InvalidParameterValue", "New size cannot be smaller than existing size")
	}
	if err := checkShape(&target); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	if v.state != "available" && v.state != "in-use" {
		return nil, fail("IncorrectState", "Volume '%s' is in the '%s' state.", v.id, v.state)
	}
	if m := v.modified; m != nil && (m.state == "modifying" || m.state == "optimizing") {
		return nil, fail("IncorrectModificationState", "Cannot modify volume %s in modification state %s", v.id, strings.ToUpper(m.state))
	}
	v.modifications = slices.DeleteFunc(v.modifications, func(t time.Time) bool { return q.now.Sub(t) >= 24*time.Hour })
	if len(v.modifications) >= 4 {
		return nil, fail("VolumeModificationRateExceeded", "You've reached the maximum modification rate per volume limit: 4 within 24 hours.")
	}
	v.modifications = append(v.modifications, q.now)
	v.modified = &modification{state: "modifying", start: q.now, original: v.shape, target: target}
	s.show(v, q.now)
	answer := v.modified.xml(v.id)
	s.after(v, q.now, s.delays.Modify, func() {
		v.modified.state, v.shape = "optimizing", target
		if s.disks != nil {
			s.disks.grow(v.id, v.size<<30)
		}
	})
	s.after(v, q.now, s.delays.Modify+s.delays.Optimize, func() {
		v.modified.state, v.modified.end = "completed", s.opt.Now()
	})
	s.show(v, q.now)
	return []part{{"volumeModification", answer}}, nil
}

func (m *modification) xml(id string) xmlModification {
	return xmlModification{VolumeID: id, State: m.state, StartTime: stamp(m.start), EndTime: stamp(m.end),
		TargetSize: m.target.size, TargetIOPS: m.target.iops, TargetThroughput: m.target.throughput, TargetType: m.target.kind,
		OriginalSize: m.original.size, OriginalIOPS: m.original.iops, OriginalThroughput: m.original.throughput, OriginalType: m.original.kind}
}

// chosen are the volumes that a describe is about, as it sees them.
func (s *Server) chosen(q *request) (all []*volume, states map[string]volumeState, byID bool, err error) {
	ids, filters := q.list("VolumeId"), q.filters()
	states = map[string]volumeState{}
	for _, id := range ids {
		if _, err := s.volume(id); err != nil && !strings.Contains(err.Error(), "NotFound") {
			return nil, nil, false, err
		}
		v := s.volumes[id]
		if v == nil {
			return nil, nil, false, fail("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
		}
		if _, ok := seen(v.shown, q.now, s.delays.Lag); !ok {
			return nil, nil, false, fail("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
		}
	}
	for _, v := range s.volumes {
		st, ok := seen(v.shown, q.now, s.delays.Lag)
		if !ok || len(ids) > 0 && !slices.Contains(ids, v.id) {
			continue
		}
		if match, err := st.matches(filters); err != nil {
			return nil, nil, false, err
		} else if match {
			all = append(all, v)
			states[v.id] = st
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].seq < all[j].seq })
	return all, states, len(ids) > 0, nil
}

func (v volumeState) matches(filters []filter) (bool, error) {
	for _, f := range filters {
		var have []string
		switch name, tag := strings.CutPrefix(f.name, "tag:"); {
		case tag:
			if t, ok := v.tags[name]; ok {
				have = []string{t}
			}
		case f.name == "volume-id":
			have = []string{v.id}
		case f.name == "status":
			have = []string{v.state}
		case f.name == "tag-key":
			have = slices.Collect(maps.Keys(v.tags))
		case f.name == "attachment.instance-id":
			for _, a := range v.attached {
				have = append(have, a.instance)
			}
		default:
			return false, fail("InvalidParameterValue", "The filter '%s' is invalid", f.name)
		}
		if !f.match(have) {
			return false, nil
		}
	}
	return true, nil
}

// match knows EC2's wildcards: * and ?, and \ before them.
func (f filter) match(have []string) bool {
	for _, p := range f.values {
		for _, h := range have {
			if wild(p, h) {
				return true
			}
		}
	}
	return false
}

func wild(p, s string) bool {
	for p != "" {
		switch {
		case p[0] == '*':
			for i := 0; i <= len(s); i++ {
				if wild(p[1:], s[i:]) {
					return true
				}
			}
			return false
		case s == "":
			return false
		case p[0] == '\\' && len(p) > 1:
			p = p[1:]
			if p[0] != s[0] {
				return false
			}
		case p[0] != '?' && p[0] != s[0]:
			return false
		}
		p, s = p[1:], s[1:]
	}
	return s == ""
}

func (s *Server) describeVolumes(q *request) ([]part, error) {
	all, states, byID, err := s.chosen(q)
	if err != nil {
		return nil, err
	}
	got, next, err := page(q, all, func(v *volume) int64 { return v.seq }, s.opt.MaxPage, byID)
	if err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	var items []xmlVolume
	for _, v := range got {
		items = append(items, states[v.id].xml())
	}
	return withNext(next, list("volumeSet", items)), nil
}

func (s *Server) describeModifications(q *request) ([]part, error) {
	all, states, byID, err := s.chosen(q)
	if err != nil {
		return nil, err
	}
	if byID {
		for _, v := range all {
			if states[v.id].modified == nil {
				return nil, fail("InvalidVolumeModification.NotFound", "Modification for volume '%s' does not exist.", v.id)
			}
		}
	}
	all = slices.DeleteFunc(all, func(v *volume) bool { return states[v.id].modified == nil })
	got, next, err := page(q, all, func(v *volume) int64 { return v.seq }, s.opt.MaxPage, byID)
	if err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	var items []xmlModification
	for _, v := range got {
		items = append(items, states[v.id].modified.xml(v.id))
	}
	return withNext(next, list("volumeModificationSet", items)), nil
}

type xmlStatus struct {
	VolumeID string `xml:"volumeId"`
	Zone     string `xml:"availabilityZone"`
	Status   string `xml:"volumeStatus>status"`
	Events   []struct {
		Type        string `xml:"eventType"`
		Description string `xml:"description"`
	} `xml:"eventsSet>item"`
}

func (s *Server) describeVolumeStatus(q *request) ([]part, error) {
	all, states, byID, err := s.chosen(q)
	if err != nil {
		return nil, err
	}
	got, next, err := page(q, all, func(v *volume) int64 { return v.seq }, s.opt.MaxPage, byID)
	if err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	var items []xmlStatus
	for _, v := range got {
		x := xmlStatus{VolumeID: v.id, Zone: v.zone, Status: "ok"}
		if states[v.id].impaired {
			x.Status = "impaired"
		}
		items = append(items, x)
	}
	return withNext(next, list("volumeStatusSet", items)), nil
}

func (s *Server) retag(q *request, change func(tags map[string]string)) ([]part, error) {
	ids := q.list("ResourceId")
	for _, id := range ids {
		if v := s.volumes[id]; v != nil && !v.gone {
			continue
		}
		if s.snapshots[id] == nil {
			return nil, fail("InvalidID", "The ID '%s' is not valid", id)
		}
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if v := s.volumes[id]; v != nil {
			change(v.tags)
			s.show(v, q.now)
		} else {
			change(s.snapshots[id].tags)
		}
	}
	return done(), nil
}

func (s *Server) createTags(q *request) ([]part, error) {
	add := map[string]string{}
	q.tagList("Tag", add)
	return s.retag(q, func(tags map[string]string) { maps.Copy(tags, add) })
}

func (s *Server) deleteTags(q *request) ([]part, error) {
	var keys []string
	for i := 1; q.has("Tag." + strconv.Itoa(i) + ".Key"); i++ {
		keys = append(keys, q.p.Get("Tag."+strconv.Itoa(i)+".Key"))
	}
	return s.retag(q, func(tags map[string]string) {
		for _, k := range keys {
			delete(tags, k)
		}
	})
}
