package manifest

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
)

// Checkpoint is what a successor of a writer that died goes on with.
type Checkpoint struct {
	Base     format.ID   // zero: none
	Attempts []format.ID // whose packs State refers to: to be named in the lease
	State    []byte      // the writer's own
}

const (
	resumeMagic     = "SEALVRP1"
	resumeBodyMagic = "SEALVRB1"
	maxAttempts     = 256
	// MaxCheckpointBytes bounds a checkpoint.
	MaxCheckpointBytes = 4 << 20
)

func (c *Checkpoint) encode() []byte {
	b := append([]byte(resumeBodyMagic), 1, byte(len(c.Attempts)), 0, 0, 0, 0, 0, 0)
	b = append(b, c.Base[:]...)
	for i := range c.Attempts {
		b = append(b, c.Attempts[i][:]...)
	}
	return append(b, c.State...)
}

func decodeCheckpoint(b []byte) (*Checkpoint, error) {
	r := format.NewReader("checkpoint", resumeBodyMagic, b)
	v, n := r.U8(), int(r.U8())
	r.Zeros(6)
	if v != 1 {
		r.Fail("version %d", v)
	}
	c := &Checkpoint{Base: r.ID()}
	for range r.Count(n, maxAttempts, 16) {
		c.Attempts = append(c.Attempts, r.ID())
	}
	c.State = r.Rest()
	if err := r.End(); err != nil {
		return nil, err
	}
	return c, nil
}

// SealCheckpoint returns the object of a checkpoint of snapshot s.
func SealCheckpoint(keys *crypto.TenantKeys, suite crypto.Suite, s format.ID, c *Checkpoint) ([]byte, error) {
	if len(c.Attempts) >= maxAttempts || len(c.State) > MaxCheckpointBytes-(8<<10) {
		return nil, fmt.Errorf("%w checkpoint: %d attempts, %d bytes", format.ErrFormat, len(c.Attempts), len(c.State))
	}
	sealed, err := keys.SealRecord(suite, crypto.RecordResume, crypto.UUID(s), c.encode())
	return append(append([]byte(resumeMagic), byte(suite)), sealed...), err
}

// OpenCheckpoint opens the checkpoint of snapshot s. ErrTenant.
func OpenCheckpoint(keys *crypto.TenantKeys, s format.ID, object []byte) (*Checkpoint, error) {
	r := format.NewReader("checkpoint", resumeMagic, object)
	suite := crypto.Suite(r.U8())
	sealed := r.Rest()
	if len(object) > MaxCheckpointBytes || suite.Validate() != nil {
		r.Fail("suite %d, %d bytes", suite, len(object))
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	body, err := keys.OpenRecord(suite, crypto.RecordResume, crypto.UUID(s), sealed)
	if errors.Is(err, crypto.ErrAuthentication) {
		return nil, fmt.Errorf("checkpoint of snapshot %s: %w: %w", s, ErrTenant, err)
	}
	if err != nil {
		return nil, err
	}
	return decodeCheckpoint(body)
}
