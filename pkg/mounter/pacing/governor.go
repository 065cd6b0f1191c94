package pacing

import "slices"

const (
	// floorRate is the lowest rate to which a used volume slows a reader, in bytes per second: a
	// snapshot that takes for ever protects nobody. 1 TiB takes 36 hours.
	floorRate = 8 << 20
	// targetSlowdown is how much longer requests may take beside the reader, and roomSlowdown
	// the bound below which there is room for more.
	targetSlowdown = 0.10
	roomSlowdown   = 0.06
	// startRate is where a reader of a used volume begins, in bytes per second.
	startRate = 32 << 20
	// slowest and easier are by how much the rate changes at once. Times of requests vary without a
	// reader, too, so one comparison decides little, and both directions weigh the same.
	slowest = 0.75
	easier  = 1 / slowest
	// usedRequests are use, if they are answered in Every. So is one that still waits: the more a
	// reader harms, the fewer are answered. But what waits during a hold as well does not wait for
	// the reader.
	usedRequests = 4
	// kindRequests of a kind are needed to know how long they take.
	kindRequests = 3
	// holdWindows are those of a hold: what the reader began before ends in the first one, the
	// second is measured. runWindows follow. The first window of use begins with a hold.
	holdWindows = 2
	runWindows  = 8
	// judgeWindows are compared at once, or more until there are usedRequests.
	judgeWindows = 4
	// alone is how many holds are remembered.
	alone = 10
)

// Governor adjusts a Pacer to how busy the volume is. It is used by one goroutine, which calls Next
// with each Load, and Free after the last one.
type Governor struct {
	p *Pacer

	left   int       // windows of the phase that are left
	held   bool      // which phase
	before []float64 // rates of the windows to be judged
	run    Load      // their requests
	holds  [Kinds][]Requests
	rate   float64 // 0: not slowed
	first  float64 // the rate at which slowing began
	begun  bool    // the volume was used
	stuck  int     // requests that wait whatever the reader does, such as for a lock
}

// NewGovernor returns a Governor of a Pacer.
func NewGovernor(p *Pacer) *Governor { return &Governor{p: p} }

// Free ends all slowing: without a server, there are no requests to be in the way of.
func (g *Governor) Free() {
	g.p.release()
	g.rate, g.first = 0, 0
	g.p.set(0)
}

// Next takes the load of one window.
func (g *Governor) Next(l Load) {
	rate := g.p.measure()
	used := l.Count() >= usedRequests || l.Queue > g.stuck
	if g.held {
		g.left--
		if g.left > 0 {
			return
		}
		g.learn(&l)
		g.p.release()
		g.held, g.left = false, runWindows
		return
	}
	if !used {
		g.before, g.run = nil, Load{}
		g.ease(easier, rate)
		return
	}
	if g.rate == 0 && !g.begun {
		g.rate, g.first = startRate, startRate
		g.p.set(g.rate)
	}
	g.begun = true
	g.run.add(&l)
	if g.before = append(g.before, rate); len(g.before) >= judgeWindows && g.run.Count() >= usedRequests {
		g.judge()
	}
	if g.left--; g.left <= 0 {
		g.p.hold()
		g.held, g.left = true, holdWindows
	}
}

// learn remembers how long requests take without the reader.
func (g *Governor) learn(l *Load) {
	g.stuck = 0
	if l.Count() == 0 {
		g.stuck = l.Queue
	}
	for i, k := range l.Kinds {
		if k.Count < kindRequests {
			continue
		}
		if len(g.holds[i]) == alone {
			g.holds[i] = slices.Delete(g.holds[i], 0, 1)
		}
		g.holds[i] = append(g.holds[i], k)
	}
}

// base returns how long a request of a kind takes without the reader, in microseconds. 0: unknown.
func (g *Governor) base(kind int) float64 {
	var all Requests
	for _, k := range g.holds[kind] {
		all.Count += k.Count
		all.Micros += k.Micros
	}
	if all.Count == 0 {
		return 0
	}
	return float64(all.Micros) / float64(all.Count)
}

// judge compares requests beside the reader with those without it.
func (g *Governor) judge() {
	took, expected, rate := 0.0, 0.0, 0.0
	for i, k := range g.run.Kinds {
		if base := g.base(i); base > 0 {
			took += float64(k.Micros)
			expected += base * float64(k.Count)
		}
	}
	for _, r := range g.before {
		rate += r / float64(len(g.before))
	}
	g.before, g.run = nil, Load{}
	if expected == 0 {
		return
	}
	switch slower := took/expected - 1; {
	case slower > targetSlowdown:
		g.slow(max(targetSlowdown/slower, slowest), rate)
	case slower < roomSlowdown:
		g.ease(easier, rate)
	}
}

// slow lowers the rate by a factor. recent is the rate that was reached.
func (g *Governor) slow(factor, recent float64) {
	from := g.rate
	if from == 0 || recent < from {
		from = recent // the rate has no effect: what is read counts
	}
	if from == 0 {
		return // nothing is read
	}
	if g.rate == 0 {
		g.first = from
	}
	g.rate = max(from*factor, floorRate)
	g.p.set(g.rate)
}

// ease raises the rate by a factor, until it has no effect.
func (g *Governor) ease(factor, recent float64) {
	if g.rate == 0 {
		return
	}
	if g.rate *= factor; g.rate >= 2*max(g.first, recent) {
		g.rate, g.first = 0, 0
	}
	g.p.set(g.rate)
}
