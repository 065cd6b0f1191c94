package worker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
)

// TestCheckStatus: a process that lacks any of the restrictions gets no keys. This process lacks
// them all.
func TestCheckStatus(t *testing.T) {
	good := "Name:\tdriver\nNoNewPrivs:\t1\nSeccomp:\t0\n"
	for _, n := range []string{"Inh", "Prm", "Eff", "Bnd", "Amb"} {
		good += "Cap" + n + ":\t0000000000000000\n"
	}
	if err := checkStatus(good); err != nil {
		t.Error(err)
	}
	for name := range confined {
		for _, bad := range []string{strings.Replace(good, name+":", "Other:", 1), strings.Replace(good, name+":\t", name+":\t2", 1)} {
			if err := checkStatus(bad); !errors.Is(err, errNotConfined) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := checkConfined(); !errors.Is(err, errNotConfined) {
		t.Errorf("a test is not confined: %v", err)
	}
}

func TestOutcome(t *testing.T) {
	err := errors.New("x")
	for _, c := range []struct {
		err       error
		cancelled bool
		want      workerctl.Outcome
	}{
		{nil, false, workerctl.Succeeded}, {nil, true, workerctl.Succeeded}, {err, false, workerctl.Stopped},
		{err, true, workerctl.Interrupted}, {fmt.Errorf("y: %w", Final(err)), false, workerctl.Failed}, {ErrNoStore, false, workerctl.Stopped},
	} {
		if got := outcome(c.err, c.cancelled); got != c.want {
			t.Errorf("%v, %v: %s, want %s", c.err, c.cancelled, got, c.want)
		}
	}
	if !errors.Is(Final(err), err) || Final(err).Error() != "x" {
		t.Error("Final hides its error")
	}
}
