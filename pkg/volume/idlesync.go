package volume

import "time"

// idleInterval is the time without changes after which unsynced operations are written to the log.
// So an idle machine that loses power loses at most this interval, not a whole CommitInterval. A
// busy volume is not affected: it commits every CommitInterval.
const idleInterval = 250 * time.Millisecond

// idleSyncer makes operations durable when no more arrive.
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
			_ = v.sync.syncTail() // an error makes the volume fail, which reports it
		}
	}()
}

// awaitIdle waits for an interval without changes. It returns false when the volume is being
// closed.
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

// note records a change.
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
