package ec2test

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sort"
)

// Volume is the present state of a volume, independent of what describes show.
type Volume struct {
	ID, State, Zone, Type string
	GiB                   int64
	IOPS, Throughput      int64 // MiB/s
	Tags                  map[string]string
	Instances             []string // instances that it is attached, attaching or detaching to
}

// Volumes returns all volumes except root volumes, in the order of their creation.
func (s *Server) Volumes() []Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(s.opt.Now())
	var all []*volume
	for _, v := range s.volumes {
		if !v.gone && !s.isRoot(v.id) {
			all = append(all, v)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].seq < all[j].seq })
	var list []Volume
	for _, v := range all {
		x := Volume{ID: v.id, State: v.state, Zone: v.zone, Type: v.kind, GiB: v.size, IOPS: v.iops, Throughput: v.throughput, Tags: maps.Clone(v.tags)}
		for _, a := range v.attached {
			x.Instances = append(x.Instances, a.instance)
		}
		list = append(list, x)
	}
	return list
}

// Snapshots returns the ids of all snapshots.
func (s *Server) Snapshots() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.snapshots))
}

// Tags returns the tags of a volume or snapshot, or nil if it does not exist.
func (s *Server) Tags(id string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[id]; v != nil {
		return maps.Clone(v.tags)
	}
	if x := s.snapshots[id]; x != nil {
		return maps.Clone(x.tags)
	}
	return nil
}

func (s *Server) isRoot(id string) bool {
	for _, in := range s.instances {
		if in.root == id {
			return true
		}
	}
	return false
}

// Update changes a volume as EC2 or a user of its console might: "delete", "impair", "detach",
// "error", "untag", "mangle" (its tags).
func (s *Server) Update(id, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opt.Now()
	s.settle(now)
	v := s.volumes[id]
	switch what {
	case "delete":
		v.gone = true
	case "impair":
		v.impaired = true
	case "error":
		v.state = "error"
	case "mangle":
		v.tags["csi.sealvol.dev/name"] = "b64:~"
	case "untag":
		clear(v.tags)
	case "detach":
		for _, a := range v.attached {
			s.detached(v, a.instance)
		}
	default:
		panic("no such update: " + what)
	}
	s.show(v, now)
}

// UpdateSnapshot changes a snapshot as EC2 or a user of its console might: "error", "image".
func (s *Server) UpdateSnapshot(id, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opt.Now()
	s.settle(now)
	x := s.snapshots[id]
	switch what {
	case "error":
		x.state, x.message = "error", "Given key ID is not accessible"
	case "image":
		x.image = true
	default:
		panic("no such update: " + what)
	}
	x.shown = append(x.shown, stamped[string]{at: now, what: x.state})
}

// DisableKey makes a KMS key unusable.
func (s *Server) DisableKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = slices.DeleteFunc(s.keys, func(k string) bool { return k == key })
}

// AttachForeign attaches a volume that does not belong to the driver, at a device name.
func (s *Server) AttachForeign(instance, device string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opt.Now()
	s.seq++
	v := &volume{seq: s.seq, volumeState: volumeState{id: newID("vol-"), zone: s.instances[instance].Zone, state: "in-use", created: now, tags: map[string]string{}, shape: shape{kind: "gp3", size: 1, iops: 3000, throughput: 125},
		attached: []attachment{{instance: instance, device: device, state: "attached", at: now}}}}
	s.volumes[v.id] = v
	s.show(v, now)
	return v.id
}

// StickAttach makes attaching at a device name never end.
func (s *Server) StickAttach(device string, stuck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck[device] = stuck
}

// StickDetach makes detaching never end, as it does while a running instance still uses the device.
// When it is switched off, waiting detachments continue.
func (s *Server) StickDetach(stuck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowOff = stuck
	if stuck {
		return
	}
	now := s.opt.Now()
	s.settle(now)
	for _, v := range s.volumes {
		for _, a := range slices.Clone(v.attached) {
			if a.state == "detaching" {
				s.detached(v, a.instance)
				s.show(v, now)
			}
		}
	}
}

// Sys and Dev are the directories that replace /sys and, only for links, /dev: options of the node
// half.
func (s *Server) Sys() string { return filepath.Join(s.opt.Disks, "sys") }

// Links is the directory of the links that udev creates.
func (s *Server) Links() string { return filepath.Join(s.opt.Disks, "dev") }

// Consistent checks for impossible states: a volume attached twice, or a device name used twice.
func (s *Server) Consistent() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := map[string]string{}
	for _, v := range s.volumes {
		if v.gone {
			continue
		}
		if len(v.attached) > 1 {
			return fmt.Errorf("%s is attached %d times", v.id, len(v.attached))
		}
		for _, a := range v.attached {
			key := a.instance + " " + a.device
			if names[key] != "" {
				return fmt.Errorf("%s has both %s and %s", key, names[key], v.id)
			}
			names[key] = v.id
		}
	}
	return nil
}
