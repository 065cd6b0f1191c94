package crypto

import (
	"errors"
	"math"
)

// Identified is a chunk whose d is known. It lets a writer compare d with what is stored already
// before it compresses and seals, without computing d twice.
type Identified struct {
	redacted
	keys  *TenantKeys
	kind  ChunkKind
	chunk []byte
	d     [32]byte
}

// D returns what identifies the chunk within the tenant.
func (c *Identified) D() [32]byte { return c.d }

// Identify computes d of a chunk. The chunk must not change until SealIdentified, if that is
// called: the key of an uncompressed chunk is derived from d, and must seal no other bytes.
func (t *TenantKeys) Identify(k ChunkKind, chunk []byte) (Identified, error) {
	d, err := t.ChunkID(k, chunk)
	if err != nil {
		return Identified{}, err
	}
	return Identified{keys: t, kind: k, chunk: chunk, d: d}, nil
}

var errIdentified = errors.New("crypto: the chunk was sealed already, or other keys identified it")

// SealIdentified is SealPacked for a chunk that these keys have identified. It uses c up: what was
// identified once is sealed at most once, since the caller may reuse its memory afterwards.
func (t *TenantKeys) SealIdentified(s Suite, comp uint8, c *Identified, payload, dst []byte) (ChunkRef, []byte, error) {
	if c.keys != t {
		return ChunkRef{}, nil, errIdentified
	}
	if len(c.chunk) > math.MaxUint32 {
		return ChunkRef{}, nil, errBuffer
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.c.at == nil {
		return ChunkRef{}, nil, ErrErased
	}
	r := ChunkRef{Suite: s, Kind: c.kind, Comp: comp, Length: uint32(len(c.chunk)), D: c.d, P: c.d}
	if comp == 0 {
		payload = c.chunk
	} else {
		r.P = t.payloadID(c.kind, comp, payload)
	}
	*c = Identified{}
	if err := r.Validate(); err != nil {
		return ChunkRef{}, nil, err
	}
	err := t.chunkBox(s, r.Kind, comp, &r.P, func(b *box) (err error) {
		dst, err = b.seal(dst, chunkNonce[:], payload, chunkAAD(s, r.Kind, comp))
		return err
	})
	if err != nil {
		return ChunkRef{}, nil, err
	}
	return r, dst, nil
}
