package volume

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
)

// Finish makes everything durable, checks that the facts make a whole volume, removes the mark of
// the volume, and closes it. Nobody else may use the loader meanwhile, and only the caller knows
// whether all content was written. If it returns an error that wraps logical.ErrInvalid, no volume has
// such facts, and the volume stays marked. After any other error, use ResumeLoader: if the mark was
// removed, it returns ErrNotRestoring, and the volume is complete.
func (l *Loader) Finish() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.settle(); err != nil {
		return l.explain(err)
	}
	v := l.v
	if err := v.com.commitAll(); err != nil {
		return l.explain(v.sync.syncErr(err))
	}
	if err := l.checkFacts(); err != nil {
		return l.explain(err)
	}
	if err := v.keys.change(v.keys.endRestore); err != nil {
		return l.explain(err)
	}
	l.ended = true
	return v.Close()
}

// endRestore says in the header that the volume is complete: everything is durable. Then it removes
// the position, and makes the roots refuse older headers. The caller holds keyring.mu. After a
// crash in between, the next mount does that (dropPosition).
func (k *keyring) endRestore() error {
	v := k.v
	h := *k.header
	h.Incompat &^= layout.FeatureRestoring
	if err := k.writeHeader(&h); err != nil {
		return err
	}
	k.features.Store(h.Incompat)
	c := reservation{nodes: opNodes + layout.MaxPosition/layout.NodeBytes*2, urgent: true, nested: true}
	if err := v.adm.reserve(c); err != nil {
		return err
	}
	err := v.inGate(func() error {
		return v.fs.Update(func(w *tree.Writer) error { return v.deletePosition(w, 0) })
	})
	v.adm.done(c)
	if err != nil {
		return err
	}
	return k.raiseFloor()
}
