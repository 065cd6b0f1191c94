package ec2test

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"
)

// attachment is an attachment of a volume.
type attachment struct {
	instance, device, state string
	card                    int
	at                      time.Time
}

// modification is the last modification of a volume.
type modification struct {
	state            string
	start, end       time.Time
	original, target shape
}

// shape has the values that a modification changes.
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

// stamped is a state that holds from a certain time on.
type stamped[T any] struct {
	at   time.Time
	what T
	gone bool
}

// step is something that happens to a volume at a certain time.
type step struct {
	at time.Time
	do func()
}

type volume struct {
	volumeState
	seq           int64
	shown         []stamped[volumeState] // in order of time; the states that describes can show
	steps         []step                 // in order of time
	modifications []time.Time            // of the last 24 hours
	gone          bool
}

// settle executes the steps that are due.
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

// show makes the state of a volume visible to describes.
func (s *Server) show(v *volume, at time.Time) {
	v.shown = append(v.shown, stamped[volumeState]{at, v.clone(), v.gone})
	for len(v.shown) > 1 && at.Sub(v.shown[1].at) > s.delays.Lag {
		v.shown = v.shown[1:]
	}
}

// seen returns the state that a describe sees.
func seen[T any](shown []stamped[T], now time.Time, lag time.Duration) (what T, ok bool) {
	for i := len(shown) - 1; i >= 0; i-- {
		if !shown[i].at.After(now.Add(-lag)) {
			return shown[i].what, !shown[i].gone
		}
	}
	return what, false
}

// after schedules a step, or executes it at once if it takes no time.
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

// hashOf returns a hash of all parameters that a retry must repeat.
func hashOf(p url.Values) string {
	p = maps.Clone(p)
	delete(p, "ClientToken")
	h := sha256.Sum256([]byte(p.Encode()))
	return hex.EncodeToString(h[:])
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
	if !slices.Contains(s.opt.Zones, zone) && s.opt.EdgeZones[zone] == "" {
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
		v.kind = "gp2" // whatever the source is
	}
	if v.size == 0 {
		v.size = from.size
	}
	if v.size < from.size {
		return nil, fail("InvalidParameterValue", "The size of the copy must be at least that of the source, %d GiB", from.size)
	}
	return s.made(q, v, token, func() string { return from.id })
}

// made is the common part of creating and copying, after the token was read.
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
	if slices.Contains(s.opt.NoTypes[v.zone], v.kind) {
		return nil, fail("VolumeTypeNotAvailableInZone", "The specified Availability Zone does not support %s volumes.", v.kind)
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	// Like EC2, check the limits before the token.
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
		if !s.opt.Ghosts { // burnt
			return nil, fail("IdempotentParameterMismatch", "The client token you have provided is associated with a resource that is already deleted. Please use a different client token.")
		}
		return wrap(t.answer), nil
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
	bad := v.kms != "" && !slices.Contains(s.keys, v.kms)
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

// chosen returns the volumes of a describe, in the state that it sees.
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
