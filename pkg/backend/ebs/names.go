package ebs

import (
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/sealvol/sealvol/pkg/backend"
)

// deviceNames are those that EC2 accepts, in the order in which they are tried. On Nitro instances a name means nothing to the kernel, but EC2 wants one,
// and one that is free. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html allows /dev/xvd[b-c][a-z]; more are
// known to work (see docs/ebs.md). Those of one letter come last: people and images use them.
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

// nameAllocator chooses device names. A name is taken from its choice until the attachment shows in describes.
type nameAllocator struct {
	mu    sync.Mutex
	taken map[string]string // "instance name" -> volume; guarded by mu
	bad   memory[bool]      // "instance name" that EC2 refused or on which an attachment hung
}

// choose takes a name for a volume. Names that went wrong come last.
func (a *nameAllocator) choose(i types.Instance, volume string) (name string, release func(), err error) {
	id := aws.ToString(i.InstanceId)
	used := map[string]bool{aws.ToString(i.RootDeviceName): true}
	for _, m := range i.BlockDeviceMappings {
		used[aws.ToString(m.DeviceName)] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	last := ""
	for _, n := range deviceNames {
		key := id + " " + n
		if holder := a.taken[key]; used[n] || used[alias(n)] || holder != "" && holder != volume {
			continue
		}
		if _, bad := a.bad.get(key); bad {
			if last == "" {
				last = n
			}
			continue
		}
		return a.take(key, n, volume)
	}
	if last != "" {
		return a.take(id+" "+last, last, volume)
	}
	return "", nil, fmt.Errorf("%w: no device name is free", backend.ErrTooManyAttached)
}

// alias is what some kernels make of a name: sdb and xvdb are one device to them.
func alias(n string) string {
	switch {
	case len(n) == len("/dev/sdb") && n[:7] == "/dev/sd":
		return "/dev/xvd" + n[7:]
	case len(n) == len("/dev/xvdb") && n[:8] == "/dev/xvd":
		return "/dev/sd" + n[8:]
	}
	return n
}

// take is called with mu held.
func (a *nameAllocator) take(key, name, volume string) (string, func(), error) {
	if a.taken == nil {
		a.taken = map[string]string{}
	}
	a.taken[key] = volume
	return name, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.taken, key)
	}, nil
}

// spoil remembers that a name went wrong.
func (a *nameAllocator) spoil(instance, name string) { a.bad.set(instance+" "+name, true) }
