package volume

import "time"

// idleInterval is how long nothing changes before what nobody has synced is written to the log: a
// machine that loses power at rest loses at most so much, not a whole CommitInterval. A busy volume
// does not notice; its commits come every CommitInterval, as ever.
const idleInterval = 250 * time.Millisecond

// idleSyncer makes operations durable once no more come.
type idleSyncer struct {
	v *Volume

	changed chan struct{} // something changed
	quit    chan struct{}
	done    chan struct{}
}

func (s *idleSyncer) start() {
	v := s.v
	s.changed, s.quit, s.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(s.done)
		for {
			select {
			case <-s.changed:
			case <-s.quit:
				return
			}
			if !s.awaitIdle() {
				return
			}
			_ = v.sync.syncTail() // an error has failed the volume, which says so
		}
	}()
}

// awaitIdle waits for an interval in which nothing changes; false: the volume is being closed.
func (s *idleSyncer) awaitIdle() bool {
	v := s.v
	_, last := v.sync.ringHead()
	for {
		timer := time.NewTimer(idleInterval)
		select {
		case <-timer.C:
		case <-s.quit:
			timer.Stop()
			return false
		}
		_, next := v.sync.ringHead()
		if next == last {
			return true
		}
		last = next
	}
}

// note tells it of a change.
func (s *idleSyncer) note() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *idleSyncer) end() {
	if s.quit != nil {
		close(s.quit)
		<-s.done
	}
}
