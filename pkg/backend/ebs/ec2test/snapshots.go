package ec2test

import (
	"maps"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"
)

type snapshot struct {
	id, volume, state string
	seq, size         int64
	encrypted, image  bool // image: an image was created from it
	started, ready    time.Time
	tags              map[string]string
	shown             []stamped[string] // its state
	data              string            // of the disks
	message           string            // why it failed
}

func (x *snapshot) xml(state string) xmlSnapshot {
	progress := "42%"
	if state == "completed" {
		progress = "100%"
	}
	return xmlSnapshot{SnapshotID: x.id, VolumeID: x.volume, Status: state, Message: x.message, StartTime: stamp(x.started), Progress: progress, VolumeSize: x.size, Encrypted: x.encrypted,
		Owner: "123456789012", Tags: xmlTags(x.tags)}
}

func (s *Server) createSnapshot(q *request) ([]part, error) {
	v, err := s.volume(q.str("VolumeId"))
	if err != nil {
		return nil, err
	}
	q.str("Description")
	tags := q.tags("snapshot")
	if err := q.check(); err != nil {
		return nil, err
	}
	if v.state != "available" && v.state != "in-use" {
		return nil, fail("IncorrectState", "Volume '%s' is in the '%s' state.", v.id, v.state)
	}
	s.seq++
	x := &snapshot{id: newID("snap-"), volume: v.id, state: "pending", seq: s.seq, size: v.size, encrypted: v.encrypted, started: q.now, ready: q.now.Add(s.delays.Snapshot), tags: tags}
	if s.disks != nil {
		x.data = x.id
		if err := s.disks.create(x.id, v.size<<30, v.id); err != nil {
			return nil, err
		}
	}
	x.shown = append(x.shown, stamped[string]{at: q.now, what: x.state})
	s.snapshots[x.id] = x
	return []part{{"", x.xml(x.state)}}, nil
}

var snapshotID = regexp.MustCompile(`^snap-([0-9a-f]{8}|[0-9a-f]{17})$`)

func (s *Server) deleteSnapshot(q *request) ([]part, error) {
	id := q.str("SnapshotId")
	if err := q.check(); err != nil {
		return nil, err
	}
	if !snapshotID.MatchString(id) {
		return nil, fail("InvalidParameterValue", "Value (%s) for parameter snapshotId is invalid.", id)
	}
	if s.snapshots[id] == nil {
		return nil, fail("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", id)
	}
	if s.snapshots[id].image {
		return nil, fail("InvalidSnapshot.InUse", "The snapshot %s is currently in use by ami-0123456789abcdef0", id)
	}
	delete(s.snapshots, id)
	if s.disks != nil {
		s.disks.remove(id)
	}
	return done(), nil
}

func (s *Server) describeSnapshots(q *request) ([]part, error) {
	ids, filters := q.list("SnapshotId"), q.filters()
	q.list("Owner")
	var all []*snapshot
	states := map[string]string{}
	for _, x := range s.snapshots {
		st, ok := seen(x.shown, q.now, s.delays.Lag)
		if !ok || len(ids) > 0 && !slices.Contains(ids, x.id) {
			continue
		}
		if match, err := x.matches(filters, st); err != nil {
			return nil, err
		} else if match {
			all = append(all, x)
			states[x.id] = st
		}
	}
	for _, id := range ids {
		if !snapshotID.MatchString(id) {
			return nil, fail("InvalidParameterValue", "Value (%s) for parameter snapshotId is invalid.", id)
		}
		if _, ok := states[id]; !ok && len(filters) == 0 {
			return nil, fail("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", id)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].seq < all[j].seq })
	got, next, err := page(q, all, func(x *snapshot) int64 { return x.seq }, s.opt.MaxPage, len(ids) > 0)
	if err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	var items []xmlSnapshot
	for _, x := range got {
		items = append(items, x.xml(states[x.id]))
	}
	return withNext(next, list("snapshotSet", items)), nil
}

func (x *snapshot) matches(filters []filter, state string) (bool, error) {
	for _, f := range filters {
		var have []string
		switch name, tag := strings.CutPrefix(f.name, "tag:"); {
		case tag:
			if t, ok := x.tags[name]; ok {
				have = []string{t}
			}
		case f.name == "snapshot-id":
			have = []string{x.id}
		case f.name == "volume-id":
			have = []string{x.volume}
		case f.name == "status":
			have = []string{state}
		case f.name == "tag-key":
			have = slices.Collect(maps.Keys(x.tags))
		default:
			return false, fail("InvalidParameterValue", "The filter '%s' is invalid", f.name)
		}
		if !f.match(have) {
			return false, nil
		}
	}
	return true, nil
}
