package ec2test

import (
	"slices"
	"strings"
	"time"
)

func (s *Server) modifyVolume(q *request) ([]part, error) {
	v, err := s.volume(q.str("VolumeId"))
	if err != nil {
		return nil, err
	}
	target := v.shape
	if k := q.str("VolumeType"); k != "" && k != v.kind {
		target = v.retyped(k)
	}
	if n := q.num("Size"); n != 0 {
		target.size = n
	}
	asked := said{q.num("Iops") != 0, q.num("Throughput") != 0}
	if asked.iops {
		target.iops = q.num("Iops")
	}
	if asked.throughput {
		target.throughput = q.num("Throughput")
	}
	if target.size < v.size {
		return nil, fail("InvalidParameterValue", "New size cannot be smaller than existing size")
	}
	if err := checkChange(&target, asked); err != nil {
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
	if most := s.opt.Limits.ModifyTo; most > 0 {
		target.iops = min(target.iops, most)
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
