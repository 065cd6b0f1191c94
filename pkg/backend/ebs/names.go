package ebs

import (
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// deviceNames are the names that EC2 accepts, in the order in which they are tried. On Nitro
// instances, a name means nothing to the kernel, but EC2 requires a free one.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html allows /dev/xvd[b-c][a-z];
// more are known to work (see docs/ebs.md). Names with one letter come last, because people and
// images use them.
var deviceNames = makeDeviceNames()

func makeDeviceNames() []string {
	var l []string
	for _, r := range []struct{ prefix, from, to string }{
		{"/dev/xvda", "a", "z"}, {"/dev/xvdb", "a", "z"}, {"/dev/xvdc", "a", "z"}, {"/dev/xvdd", "a", "x"}, {"/dev/xvd", "b", "z"}, {"/dev/sd", "b", "z"}} {
		for c := r.from[0]; c <= r.to[0]; c++ {
			l = append(l, r.prefix+string(c))
		}
	}
	return l
}

// nameAllocator chooses device names, and the EBS card if an instance has several. A choice is
// reserved until describes must show the attachment.
type nameAllocator struct {
	mu     sync.Mutex
	held   map[string]heldName // by "instance name"; guarded by mu
	settle time.Duration       // how outdated describes may be
	bad    memory[bool]        // "instance name" that EC2 refused, or at which an attachment hung
}

type heldName struct {
	volume string
	card   int32
	until  time.Time // zero while it is being attached
}

// choose reserves a name for a volume, and the card with the fewest attachments. Names that failed
// before come last.
func (a *nameAllocator) choose(i types.Instance, volume string, cards int32) (name string, card int32, release func(attached bool), err error) {
	id := aws.ToString(i.InstanceId)
	used := map[string]bool{aws.ToString(i.RootDeviceName): true}
	count := make([]int, max(cards, 1))
	for _, m := range i.BlockDeviceMappings {
		used[aws.ToString(m.DeviceName)] = true
		if m.Ebs != nil {
			if c := aws.ToInt32(m.Ebs.EbsCardIndex); c >= 0 && int(c) < len(count) {
				count[c]++
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	last := ""
	for _, n := range deviceNames {
		key := id + " " + n
		h, held := a.held[key]
		if held && !h.until.IsZero() && time.Now().After(h.until) {
			delete(a.held, key)
			held = false
		}
		if used[n] || used[alias(n)] {
			continue
		}
		if held && h.volume != volume {
			if int(h.card) < len(count) {
				count[h.card]++
			}
			continue
		}
		if _, bad := a.bad.get(key); bad {
			if last == "" {
				last = n
			}
		} else if name == "" {
			name = n // continue, because other reservations count, too
		}
	}
	if name == "" {
		name = last
	}
	if name == "" {
		return "", 0, nil, fmt.Errorf("%w: no device name is free", backend.ErrTooManyAttached)
	}
	for c := range count {
		if count[c] < count[card] {
			card = int32(c)
		}
	}
	key := id + " " + name
	if a.held == nil {
		a.held = map[string]heldName{}
	}
	a.held[key] = heldName{volume: volume, card: card}
	return name, card, func(attached bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if !attached {
			delete(a.held, key)
			return
		}
		a.held[key] = heldName{volume, card, time.Now().Add(a.settle)} // describes of the instance from before do not show it
	}, nil
}

// alias returns the other name of a device: to some kernels, sdb and xvdb are the same device.
func alias(n string) string {
	switch {
	case len(n) == len("/dev/sdb") && n[:7] == "/dev/sd":
		return "/dev/xvd" + n[7:]
	case len(n) == len("/dev/xvdb") && n[:8] == "/dev/xvd":
		return "/dev/sd" + n[8:]
	}
	return n
}

// spoil remembers that a name failed.
func (a *nameAllocator) spoil(instance, name string) { a.bad.set(instance+" "+name, true) }
