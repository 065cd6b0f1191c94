package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mounter/volumectl"
)

const (
	// maxRest is how long a volume may be frozen while it is copied. The mount server ends a longer
	// freeze, and the copy is discarded.
	maxRest = 30 * time.Minute
	// thawTimeout limits the end of a freeze, which waits for no device.
	thawTimeout = 10 * time.Second
)

// errHangUp ends the request that holds a freeze.
var errHangUp = errors.New("hung up")

// quiesceBy freezes volumes of the mounter with a state directory. The freeze belongs to a
// connection, so it ends with this process.
func quiesceBy(stateDir string) backend.Quiesce {
	return func(ctx context.Context, id string) (func() error, error) {
		server := control.Client{Path: mounter.ControlPath(stateDir, id)}
		if _, err := server.Status(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("%w: no mount server answers: %w", backend.ErrNotAttached, err)
		}
		if err := writeBack(ctx, stateDir, id); err != nil {
			return nil, fmt.Errorf("%w: %w", backend.ErrBusy, err)
		}
		frozen, release, ended := make(chan volumectl.Frozen, 1), make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- server.Do(ctx, control.Request{Op: "freeze", Args: volumectl.FreezeArgs{TimeoutMillis: maxRest.Milliseconds(), Hold: true},
				Item: func(b json.RawMessage) error {
					var f volumectl.Frozen
					if err := json.Unmarshal(b, &f); err != nil {
						return err
					}
					frozen <- f
					<-release
					return errHangUp
				}}, nil)
		}()
		select {
		case f := <-frozen:
			return func() error {
				err := thaw(ctx, server, f)
				close(release)
				if e := <-ended; !errors.Is(e, errHangUp) { // the connection broke before
					err = errors.Join(err, e)
				}
				return err
			}, nil
		case err := <-ended:
			return nil, fmt.Errorf("%w: the mount server does not freeze the volume: %w", backend.ErrBusy, err)
		}
	}
}

// thaw ends a freeze; it is an error if the freeze had ended before.
func thaw(ctx context.Context, server control.Client, f volumectl.Frozen) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	var thawed volumectl.Thawed
	if err := server.Do(ctx, control.Request{Op: "thaw", Args: volumectl.ThawArgs(f)}, &thawed); err != nil {
		return err
	}
	if thawed.Ended == 0 {
		return errors.New("the volume was thawed before the copy was complete")
	}
	return nil
}
