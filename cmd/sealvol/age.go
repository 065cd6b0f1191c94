package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// age is the value of a flag for long times: 12h, 30d, 2w, 1y, or several of them, as in 1w12h.
type age struct {
	time.Duration
	set bool
}

var ageUnits = map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour, 'y': 365 * 24 * time.Hour}

// String implements pflag.Value.
func (a *age) String() string {
	if !a.set {
		return ""
	}
	return formatAge(a.Duration)
}

// Type implements pflag.Value.
func (a *age) Type() string { return "age" }

// Set implements pflag.Value. m is refused: it could be minutes or months.
func (a *age) Set(s string) error {
	if s == "0" {
		a.Duration, a.set = 0, true
		return nil
	}
	total, rest := time.Duration(0), s
	for rest != "" || s == "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.ParseUint(rest[:digits], 10, 32)
		if err != nil || digits == len(rest) || ageUnits[rest[digits]] == 0 {
			return fmt.Errorf("%q is not an age: write numbers with h, d, w or y (hours, days, weeks, years), such as 36h or 30d", s)
		}
		unit := ageUnits[rest[digits]]
		if n > uint64((1<<63-1-total)/unit) {
			return fmt.Errorf("%q is too long", s)
		}
		total += time.Duration(n) * unit
		rest = rest[digits+1:]
	}
	a.Duration, a.set = total, true
	return nil
}

// formatAge writes a time span for people, in days and hours or smaller units.
func formatAge(d time.Duration) string {
	switch days := d / (24 * time.Hour); {
	case d >= 24*time.Hour && d%(24*time.Hour) < time.Hour:
		return fmt.Sprintf("%dd", days)
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", days, d%(24*time.Hour)/time.Hour)
	case d >= time.Hour && d%time.Hour < time.Minute:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return d.Round(time.Second).String()
}

// moment is the value of a flag for a point in time.
type moment struct{ time.Time }

// String implements pflag.Value.
func (m *moment) String() string {
	if m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339)
}

// Type implements pflag.Value.
func (m *moment) Type() string { return "time" }

// Set implements pflag.Value. Without a zone, it is the local time.
func (m *moment) Set(s string) error {
	for _, layout := range []string{time.RFC3339, "2006-01-02", "2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			m.Time = t
			return nil
		}
	}
	return fmt.Errorf("%q is not a time: write 2026-11-30, \"2026-11-30 15:04\" or 2026-11-30T15:04:05Z", s)
}
