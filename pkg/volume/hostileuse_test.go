package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// exercise does with a volume what people do. It returns what became of it.
func exercise(t testing.TB, dev *device.Mem, rng *rand.Rand) string {
	k, err := crypto.NewKey(testKeyBytes())
	ok(t, err)
	defer k.Erase()
	cred := crypto.SecretCredential(k)
	before := dev.Clone()
	outcome := "checked as clean"
	if rep, err := check.Run(before, check.Options{Credential: cred, Data: rng.IntN(2) == 0}); err != nil {
		outcome = "refused by the check"
	} else if !rep.Clean {
		outcome = "found damaged"
	}
	if v, err := Open(before, Options{Credential: cred, ReadOnly: true, Memory: minMemory}); err == nil {
		lookAround(v, rng)
		snapshotsOf(v, func(name string) { readOnly(v, name, rng) })
		_ = v.Close()
	}
	v, err := Open(dev, Options{Credential: cred, CommitInterval: -1, Memory: minMemory})
	if err != nil {
		if outcome == "checked as clean" { // what fsck should perhaps have said
			fmt.Println("note:", err)
		}
		return outcome + ", not mounted"
	}
	work(v, dev, rng)
	failed := v.Failed() != nil
	_ = v.Close()
	if _, err := check.Run(dev, check.Options{Credential: cred}); err != nil {
		return outcome + ", mounted, then refused by the check"
	}
	if failed {
		return outcome + ", mounted, failed"
	}
	return outcome + ", mounted"
}

func work(v *Volume, dev *device.Mem, rng *rand.Rand) {
	ctx := context.Background()
	inos := lookAround(v, rng)
	useAll(v, inos, rng)
	_, _ = v.CreateSnapshot("fresh")
	useAll(v, inos, rng)
	_, _ = v.Scrub(ctx, ScrubOptions{})
	steps := []func(){
		func() { _, _ = v.Defrag(ctx, DefragOptions{}) },
		func() { _, _ = v.Trim(ctx, TrimOptions{}) },
		func() { _ = v.Diff("s0", "", DiffOptions{Ranges: true}, func(Change) error { return nil }) },
		func() { _ = v.Diff("s2", "fresh", DiffOptions{}, func(Change) error { return nil }) },
		func() { snapshotsOf(v, func(name string) { readOnly(v, name, rng) }) },
		func() {
			snapshotsOf(v, func(name string) { _ = v.DeleteSnapshot(name) })
			_ = v.WaitFreed()
		},
		func() { dev.Grow(5 << 30); _, _ = v.Grow() },
		func() {
			if a, err := v.OfferAnchor(); err == nil {
				_ = v.ConfirmAnchor(a)
			}
		},
		func() {
			k, err := crypto.NewKey(testKeyBytes())
			if err != nil {
				return
			}
			defer k.Erase()
			if _, err := v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{crypto.SecretCredential(k)}, BytesPerSecond: -1}); err == nil {
				useAll(v, inos, rng)
			}
		},
	}
	for _, i := range rng.Perm(len(steps))[:3+rng.IntN(4)] {
		steps[i]()
		useAll(v, inos, rng)
		_ = v.Sync(vfs.RootIno)
	}
	_, _ = v.Keys()
	_ = v.StatFS()
	if rng.IntN(4) == 0 {
		_ = v.Rollback("s2", true)
	}
}

func snapshotsOf(v *Volume, fn func(name string)) {
	infos, err := v.Snapshots()
	if err != nil {
		return
	}
	for _, i := range infos {
		if !i.Deleting {
			fn(i.Name)
		}
	}
}

func readOnly(v *Volume, name string, rng *rand.Rand) {
	fs, end, err := v.OpenSnapshot(name)
	if err != nil {
		return
	}
	defer end()
	lookAround(fs, rng)
}

// lookAround lists and reads, up to so many names.
func lookAround(fs vfs.FS, rng *rand.Rand) (inos []vfs.Ino) {
	queue := []vfs.Ino{vfs.RootIno}
	buf := make([]byte, 64<<10)
	for names := 0; len(queue) > 0 && names < 3000; queue = queue[1:] {
		_ = fs.ReadDir(queue[0], 0, true, func(d vfs.Dirent, a *vfs.Attr) bool {
			names++
			if a != nil && a.Mode&items.ModeType == items.ModeDir {
				queue = append(queue, d.Ino)
			}
			if len(inos) < 200 || rng.IntN(20) == 0 {
				inos = append(inos, d.Ino)
			}
			return names < 3000
		})
		_, _ = fs.Parent(queue[0])
	}
	for _, ino := range inos {
		a, err := fs.GetAttr(ino)
		if err != nil {
			continue
		}
		_, _ = fs.Read(ino, 0, buf)
		_, _ = fs.Read(ino, a.Size-min(a.Size, 5000), buf[:4096])
		_, _ = fs.Readlink(ino)
		names, _ := fs.ListXattr(ino)
		for _, n := range names {
			_, _ = fs.GetXattr(ino, n)
		}
		for at, n := uint64(0), 0; n < 20; n++ {
			if at, err = fs.SeekData(ino, at); err != nil {
				break
			}
			if at, err = fs.SeekHole(ino, at); err != nil {
				break
			}
		}
	}
	_ = fs.StatFS()
	return inos
}

// useAll makes and changes some of everything.
func useAll(v *Volume, inos []vfs.Ino, rng *rand.Rand) {
	req := &vfs.Req{}
	pick := func() vfs.Ino {
		if len(inos) == 0 || rng.IntN(10) == 0 {
			return vfs.RootIno
		}
		return inos[rng.IntN(len(inos))]
	}
	for i := range 30 {
		ino, name := pick(), fmt.Sprint("n", rng.IntN(20))
		switch rng.IntN(15) {
		case 0, 1, 2:
			_, _ = v.Write(req, ino, uint64(rng.IntN(1<<22)), make([]byte, rng.IntN(100_000)), true)
		case 3:
			_, _ = v.Mknod(req, ino, name, 0o644, 0)
		case 4:
			_, _ = v.Mkdir(req, ino, name, 0o755)
		case 5:
			_, _ = v.Link(req, ino, pick(), name)
		case 6:
			_ = v.Unlink(req, ino, name)
		case 7:
			_ = v.Rmdir(req, ino, name)
		case 8:
			_ = v.Rename(req, pick(), name, pick(), fmt.Sprint("n", rng.IntN(20)), uint32(rng.IntN(3)))
		case 9:
			size := uint64(rng.IntN(1 << 21))
			_, _ = v.SetAttr(req, ino, &vfs.SetAttr{Size: &size})
		case 10:
			_ = v.SetXattr(req, ino, "user.n", make([]byte, rng.IntN(5000)), 0)
			_ = v.RemoveXattr(req, ino, "user.none")
		case 11:
			_, _ = v.CopyRange(req, ino, 0, pick(), uint64(rng.IntN(8))*4096, 1<<20)
		case 12:
			_ = v.Fallocate(req, ino, []uint32{0, vfs.FallocKeepSize, vfs.FallocZeroRange, vfs.FallocPunchHole | vfs.FallocKeepSize}[rng.IntN(4)], uint64(rng.IntN(1<<20)), uint64(1+rng.IntN(1<<20)))
		case 13:
			v.Forget(ino)
		case 14:
			_ = v.SetFlags(req, ino, uint32(rng.IntN(256)))
			_, _ = v.Flags(ino)
		}
		if i == 15 {
			_ = v.Sync(vfs.RootIno)
		}
	}
}
