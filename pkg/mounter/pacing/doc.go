// Package pacing keeps the reader of a snapshot out of the way of those who use the volume.
//
// All reads of the device pass a Pacer, which has a rate. A mount server says five times a second
// how many requests it answered and how long they took (Load). A Governor follows that, and sets the
// rate:
//
//	hold ── settle ── measure ── run ── run ── … ── run ── hold ──►
//
// While the reader is held, the Governor learns how long requests take without it, for each kind of
// request. While it runs, it compares. If requests take longer than targetSlowdown allows, the rate
// falls in proportion; if there is room, it grows. No number of milliseconds is too slow or fast
// enough by itself: a network volume with fsync in ten milliseconds and a local SSD with a tenth of
// one are both compared with themselves. Time is lost only while the volume is used.
//
// Pacer.mu guards the rate. Nothing is done while it is held.
package pacing
