package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/worker"
	"github.com/sealvol/sealvol/pkg/mounter/workerctl"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/job"
)

// jobParams are the parameters of testJob.
type jobParams struct {
	Blocks int           `json:"blocks"` // of 64 KiB to read and to store, again and again from the start
	Pause  time.Duration `json:"pause"`  // after each
	// End is how it ends: "" well, "fail", "final", "panic", "exit", "memory".
	End string `json:"end"`
	// Job are the parameters of the program's own job, which runs instead.
	Job json.RawMessage `json:"job,omitempty"`
}

// jobResult is what testJob returns.
type jobResult struct {
	Tenant string   `json:"tenant"` // hex(SHA-256(secret))
	KEKs   int      `json:"keks"`
	Epochs []string `json:"epochs"` // hex(SHA-256(VMK))
	Source string   `json:"source"`
	Base   string   `json:"base"`
	Memory int      `json:"memory"`
}

const jobBlock = 64 << 10

// testJob reads the device and stores what it reads, which is ciphertext, in objects like packs.
func testJob(ctx context.Context, e worker.Env) error {
	var p jobParams
	if err := json.Unmarshal(e.Params, &p); err != nil {
		return worker.Final(err)
	}
	if p.Job != nil {
		e.Params = p.Job
		return job.Run(ctx, e)
	}
	id, err := format.ParseID(e.ID)
	if err != nil {
		return worker.Final(err)
	}
	lease := format.LeaseKey(id, id)
	if err := e.Store.Replace(ctx, lease, []byte("lease")); err != nil {
		return err
	}
	size, err := e.Device.Size()
	if err != nil {
		return err
	}
	b := make([]byte, jobBlock)
	for i := range p.Blocks {
		if _, err := e.Device.ReadAt(b, int64(i)*jobBlock%(size-jobBlock)/4096*4096); err != nil {
			return err
		}
		object := fmt.Appendf(bytes.Clone(b), "%d", i) // so that no two are equal
		n := format.Name{Class: format.Pack, Attempt: id, Sum: format.SumOf(object)}
		if _, err := e.Store.Put(ctx, n.Key(), object); err != nil {
			return err
		}
		e.Progress(workerctl.Progress{Step: "data", BytesDone: int64(i+1) * jobBlock, BytesTotal: int64(p.Blocks) * jobBlock})
		if p.Pause > 0 {
			t := time.NewTimer(p.Pause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return context.Cause(ctx)
			}
		}
	}
	if err := jobEnd(p.End); err != nil {
		return err
	}
	if _, err := e.Store.Put(ctx, format.SnapKey(id, format.CardPart), []byte("card")); err != nil {
		return err
	}
	if err := e.Store.Delete(ctx, lease); err != nil {
		return err
	}
	r := jobResult{KEKs: len(e.Secrets.KEKs), Source: e.Volume.Source.Name}
	sum := sha256.Sum256(e.Secrets.Tenants[0].Secret.Bytes())
	r.Tenant = hex.EncodeToString(sum[:])
	for _, x := range e.Volume.Keys.Epochs {
		sum := sha256.Sum256(x.VMK.Bytes())
		r.Epochs = append(r.Epochs, hex.EncodeToString(sum[:]))
	}
	if e.Volume.Base != nil {
		r.Base = e.Volume.Base.Name
	}
	out, err := json.Marshal(r)
	e.Result(out)
	return err
}

// jobEnd ends the job, or the process, as its parameters say.
func jobEnd(how string) error {
	if at, ok := strings.CutPrefix(how, "escape "); ok {
		return errors.New("reached: " + strings.Join(escape(strings.Fields(at)), ", "))
	}
	switch how {
	case "":
		return nil
	case "fail":
		return errors.New("the job failed for a while")
	case "final":
		return worker.Final(errors.New("the job failed for good"))
	case "panic":
		panic("the job is broken")
	case "exit":
		os.Exit(7)
	case "memory":
		var all [][]byte
		for range 1 << 12 {
			all = append(all, bytes.Repeat([]byte{1}, 1<<20))
		}
		return fmt.Errorf("has %d MiB", len(all))
	}
	return errors.New("unknown end")
}

// escape tries to reach what a worker must not reach, and returns what it has reached: an address of
// TCP, an abstract socket, a socket in the file system, a process, and a directory.
func escape(at []string) (reached []string) {
	try := func(what string, err error) {
		if err == nil {
			reached = append(reached, what)
		}
	}
	dial := func(network, address string) error {
		c, err := net.DialTimeout(network, address, time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}
	try("tcp", dial("tcp", at[0]))
	try("abstract socket", dial("unix", at[1]))
	try("mounter", dial("unix", at[2]))
	pid, _ := strconv.Atoi(at[3])
	try("process", unix.Kill(pid, 0))
	try("own device for writing", func() error {
		f, err := os.OpenFile("/proc/self/fd/5", os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		return err
	}())
	try("new file", os.WriteFile(filepath.Join(at[4], "escaped"), nil, 0o600))
	try("new directory", os.Mkdir(filepath.Join(at[4], "dir"), 0o700))
	try("user", syscall.Setuid(0))
	try("namespace", unix.Unshare(unix.CLONE_NEWNS))
	try("interface", func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		r, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
	}())
	return reached
}
