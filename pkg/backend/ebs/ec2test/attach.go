package ec2test

import (
	"regexp"
	"slices"
)

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
	if v.kms != "" && !slices.Contains(s.keys, v.kms) {
		// EC2 asks KMS only after it has accepted the request, and then drops the attachment
		// silently.
		s.after(v, q.now, s.delays.Attach, func() { s.detached(v, instID) })
		s.show(v, q.now)
	} else if !s.stuck[dev] {
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
	kind := InstanceTypes[in.Type]
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
	used := n + kind.interfaces(in.ENIs)
	switch {
	case in.State != "running" && in.State != "stopped":
		return fail("IncorrectState", "Instance '%s' is not 'running'.", in.ID)
	case v.modified != nil && v.modified.state == "modifying":
		return fail("OperationNotPermitted", "Cannot attach volume '%s' when it is in modification state: MODIFYING", v.id)
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
