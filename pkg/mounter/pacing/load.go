package pacing

import "time"

// OpLoad is the request of a mount server's control socket whose answer follows the load: a Load
// each Every, as items, until the caller leaves.
const OpLoad = "load"

// Every is the time between two Loads.
const Every = 200 * time.Millisecond

// The kinds of requests, which take different times.
const (
	Read = iota
	Write
	Sync
	Other
	Kinds // how many there are
)

// Load is what a mount server did since the Load before.
type Load struct {
	Queue int             `json:"queue"` // requests that are being answered
	Kinds [Kinds]Requests `json:"kinds"`
}

// Requests are the answered requests of one kind.
type Requests struct {
	Count  uint64 `json:"count"`
	Micros uint64 `json:"micros"` // that all of them took
}

// Count returns how many requests were answered.
func (l *Load) Count() (n uint64) {
	for _, k := range l.Kinds {
		n += k.Count
	}
	return n
}

func (l *Load) add(o *Load) {
	for i, k := range o.Kinds {
		l.Kinds[i].Count += k.Count
		l.Kinds[i].Micros += k.Micros
	}
}
