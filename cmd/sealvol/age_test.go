package main

import (
	"testing"
	"time"
)

func TestAge(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{"0": 0, "36h": 36 * time.Hour, "30d": 30 * day, "8w": 56 * day, "1y": 365 * day, "1w12h": 7*day + 12*time.Hour, "0d": 0} {
		var a age
		if err := a.Set(s); err != nil || a.Duration != want || !a.set {
			t.Errorf("%s: %v, %v", s, a.Duration, err)
		}
		if (a.option() < 0) != (want == 0) {
			t.Errorf("%s as an option: %v", s, a.option())
		}
	}
	for _, s := range []string{"", "1m", "1", "d", "-1d", "1.5d", "1 d", "300y", "9999999999h", "1d2", "7days"} {
		var a age
		if err := a.Set(s); err == nil {
			t.Errorf("%q is accepted as %v", s, a.Duration)
		}
	}
	for d, want := range map[time.Duration]string{72 * time.Hour: "3d", 30 * time.Hour: "1d6h", 2 * time.Hour: "2h", 90 * time.Minute: "1h30m", 5 * time.Second: "5s"} {
		if got := formatAge(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
	if a := (&age{}); a.String() != "" || a.option() != 0 {
		t.Error("an age that was not given")
	}
}

func TestMoment(t *testing.T) {
	for s, want := range map[string]time.Time{
		"2026-11-30":                time.Date(2026, 11, 30, 0, 0, 0, 0, time.Local),
		"2026-11-30 15:04":          time.Date(2026, 11, 30, 15, 4, 0, 0, time.Local),
		"2026-11-30T15:04:05Z":      time.Date(2026, 11, 30, 15, 4, 5, 0, time.UTC),
		"2026-11-30T15:04:05+02:00": time.Date(2026, 11, 30, 13, 4, 5, 0, time.UTC),
	} {
		var m moment
		if err := m.Set(s); err != nil || !m.Equal(want) {
			t.Errorf("%s: %v, %v", s, m, err)
		}
	}
	for _, s := range []string{"", "yesterday", "30.11.2026", "2026-13-01"} {
		var m moment
		if err := m.Set(s); err == nil {
			t.Errorf("%q is accepted as %v", s, m)
		}
	}
}
