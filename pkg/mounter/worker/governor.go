package worker

import (
	"errors"
	"io"

	"github.com/sealvol/sealvol/pkg/mounter/handover"
)

// A volume is busy if more requests than busyQueue are in progress at once, or if the slowest of a
// hundred takes longer than busyMicros. An SSD answers in less than a millisecond; with fsync and on
// a network, in ten.
const (
	busyQueue    = 16
	busyMicros   = 50_000
	busyRequests = 20 // fewer requests in a second are no load
)

// govern adjusts a pacer to how busy the volume is, as the mount server says each second, until the
// mount server ends or says something else.
func govern(r io.Reader, p *Pacer) error {
	defer p.Free() // without a server there are no requests to be in the way of
	for {
		l, err := handover.ReadLoad(r)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if busy(l) {
			p.Slow()
		} else {
			p.Ease()
		}
	}
}

func busy(l handover.Load) bool {
	return l.Queue >= busyQueue || l.Requests >= busyRequests && l.P99Micros >= busyMicros
}
