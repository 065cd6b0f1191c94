package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/vfstest"
)

// serve is the mount server of a benchmark. It serves a volume or a file system in memory. It reads
// the key from standard input, and then commands ("profile PATH", "stop"), and answers each with a
// line. The end of standard input means that the benchmark has died.
func serve(args []string) error {
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	dev := f.String("device", "", "device of the volume; without it, a file system in memory is served")
	dir := f.String("dir", "", "directory to mount on")
	format := f.Bool("format", false, "only format the device")
	suite := f.String("suite", "", "cipher suite of -format")
	if err := f.Parse(args); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	if !in.Scan() {
		return errors.New("standard input has no key")
	}
	key, err := hex.DecodeString(in.Text())
	if err != nil {
		return err
	}
	k, err := crypto.NewKey(key)
	if err != nil {
		return err
	}
	defer k.Erase()
	if *format {
		return formatDevice(*dev, *suite, k)
	}
	if *dev == "" {
		return serveFS(vfstest.NewMemFS(), *dir, in)
	}
	d, err := device.Open(*dev, device.OpenOptions{})
	if err != nil {
		return err
	}
	defer closeDevice(d)
	v, err := volume.Open(d, volume.Options{Credential: crypto.SecretCredential(k), Log: slog.Default()})
	if err != nil {
		return err
	}
	err = serveFS(v, *dir, in)
	return errors.Join(err, v.Failed(), v.Close())
}

// closeDevice closes a device. Everything has been flushed before.
func closeDevice(d *device.File) { _ = d.Close() }

func formatDevice(path, suite string, k *crypto.Key) error {
	d, err := device.Open(path, device.OpenOptions{})
	if err != nil {
		return err
	}
	defer closeDevice(d)
	o := volume.FormatOptions{Recipient: crypto.SecretCredential(k), Force: true}
	if suite != "" {
		if o.Suite, err = crypto.ParseSuite(suite); err != nil {
			return err
		}
	}
	return volume.Format(d, o)
}

// serveFS mounts and serves until the mount ends.
func serveFS(fs vfs.FS, dir string, in *bufio.Scanner) error {
	fuse, err := fusefs.Mount(dir, fusefs.MountOptions{Source: "sealvol-bench"})
	if err != nil {
		return err
	}
	id, err := fusefs.ConnectionID(dir)
	if err != nil {
		return errors.Join(err, fusefs.Unmount(dir, true))
	}
	srv, err := fusefs.NewServer(fusefs.Options{FS: fs, Device: fuse})
	if err != nil {
		return errors.Join(err, fusefs.Unmount(dir, true))
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve() }()
	select {
	case <-srv.Ready():
	case err := <-served:
		return err
	}
	if err := fusefs.Tune(dir); err != nil {
		return errors.Join(err, fusefs.AbortConnection(id), fusefs.Unmount(dir, true))
	}
	fmt.Println("ready")
	go func() {
		var p profiler
		for in.Scan() {
			if err := p.command(in.Text()); err != nil {
				fmt.Println("error:", err)
				continue
			}
			fmt.Println("ok")
		}
		// The benchmark has died, unless the mount has already ended.
		if err := fusefs.Unmount(dir, true); err == nil {
			_ = fusefs.AbortConnection(id) // it may be gone
		}
	}()
	err = <-served
	if errors.Is(err, fusefs.ErrAborted) {
		err = errors.Join(err, fusefs.Unmount(dir, true))
	}
	return err
}

// profiler writes a profile of the server between two commands.
type profiler struct {
	path string
	cpu  *os.File
}

func (p *profiler) command(line string) error {
	verb, path, _ := strings.Cut(line, " ")
	switch verb {
	case "profile":
		f, err := os.Create(path + ".cpu")
		if err != nil {
			return err
		}
		p.path, p.cpu = path, f
		runtime.SetBlockProfileRate(10_000)
		runtime.SetMutexProfileFraction(10)
		return pprof.StartCPUProfile(f)
	case "stop":
		if p.cpu == nil {
			return nil
		}
		pprof.StopCPUProfile()
		err := p.cpu.Close()
		p.cpu = nil
		runtime.SetBlockProfileRate(0)
		runtime.SetMutexProfileFraction(0)
		for _, name := range []string{"block", "mutex", "allocs"} { // of the process so far
			err = errors.Join(err, writeProfile(name, p.path+"."+name))
		}
		return err
	}
	return fmt.Errorf("unknown command %q", verb)
}

func writeProfile(name, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return pprof.Lookup(name).WriteTo(f, 0)
}
