package commit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeep: a lease is renewed in time, sooner after a failure, and no more once
// it was stopped.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		failures := 0
		start := time.Now()
		stop := Keep(t.Context(), 10*time.Minute, func(context.Context) error {
			at = append(at, time.Since(start))
			if len(at) == 2 {
				return errors.New("the store is away")
			}
			return nil
		}, func(error) { failures++ })
		<-time.After(32 * time.Minute)
		stop()
		<-time.After(time.Hour)
		if want := []time.Duration{10 * time.Minute, 20 * time.Minute, 21 * time.Minute, 31 * time.Minute}; len(at) != 4 || at[1] != want[1] || at[2] != want[2] || at[3] != want[3] || failures != 1 {
			t.Errorf("%v, %d failures", at, failures)
		}
	})
}
