package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// minMemory is the least that pkg/volume works with.
const minMemory = 32 << 20

type mountOptions struct {
	key        keyFlags
	readOnly   bool
	snapshot   string // its name; "": the volume
	foreground bool
	memory     byteSize
	anchorFile string
	options    []string // -o, as given
	readyFD    int      // of the pipe to the process that started this one; 0: none

	mount   fusefs.MountOptions // from options
	discard bool
}

func mountCommand() *cobra.Command {
	o := &mountOptions{memory: volume.DefaultMemory}
	c := &cobra.Command{
		Use:   "mount --key-file FILE [flags] DEVICE DIR",
		Short: "Mount a volume on a directory",
		Long: `Mount the volume on DEVICE on the directory DIR. The command returns once the file
system answers, and leaves a process behind that serves it until it is unmounted.
With --foreground the command itself serves.

Everything that was synced is there after a crash of the process, the machine or
its power: the next mount replays the log. A mount that such a crash left on DIR
is removed.

SIGTERM and SIGINT unmount cleanly; while files are in use the mount is detached,
synced and served on until the last is closed, or until a second signal cuts it off.
If the device fails, the volume stays readable and refuses changes; the log says so.

Mount options (-o, separated by commas): ro rw suid nosuid dev nodev exec noexec
atime noatime relatime diratime nodiratime sync async dirsync, SELinux's context=
fscontext= defcontext= rootcontext=, and allow_other, the default for root only.
With discard, freed space is discarded in batches: thin and flash devices get it
back, and whoever has the device sees which parts of it are free. Default: nodiscard.
Permissions are always checked. Default: nosuid,nodev,noatime.

With --anchor-file the mount keeps an anchor of the volume in that file: at once, every
30 seconds while something changes, and at the end. A device that holds an older state
than the file's, or another history, is refused from then on, and so is one that was
overwritten. Keep the file where whoever can change the device can not reach. A file
that does not exist is made; with --read-only it is only compared.

Logs go to standard error. If that is a pipe, a process in the background lets go
of it once the file system answers, and logs to /run/sealvol/mount-PID.log
($XDG_RUNTIME_DIR/sealvol without root); only logs of mounts that failed stay.

With --snapshot a local snapshot is mounted instead of the volume. While the volume is
mounted, give the directory where it is in place of DEVICE: its server serves the
snapshot as well, until either is unmounted.

Without root, fusermount3 does the mounting; others can use the mount with -o
allow_other alone, which needs user_allow_other in /etc/fuse.conf.`,
		Example: `  sealvol mount --key-file vol.key vol.img /mnt
  sealvol mount --key-file vol.key --read-only -o noexec /dev/nvme1n1 /mnt
  sealvol mount --key-file vol.key --foreground --memory 1GiB vol.img /mnt
  sealvol mount --snapshot nightly /mnt /mnt2`,
		Args: args(2, 2, "DEVICE and DIR"),
		RunE: func(c *cobra.Command, a []string) error {
			if o.snapshot != "" {
				if c, err := mounts.Server(a[0]); err != nil || c != nil {
					return mountBeside(o, c, err, a[0], a[1])
				}
			}
			if err := o.key.one(); err != nil {
				return err
			}
			if err := o.check(); err != nil {
				return err
			}
			if o.readyFD != 0 {
				return serveForParent(o, a[0], a[1])
			}
			dir, err := mountPoint(a[1])
			if err != nil {
				return err
			}
			if o.foreground {
				return serve(o, a[0], dir, func() error { return nil })
			}
			return startServer(o, a[0], dir)
		},
	}
	f := c.Flags()
	o.key.register(f)
	f.BoolVar(&o.readOnly, "read-only", false, "write nothing to the device, not even to replay its log")
	f.StringVar(&o.snapshot, "snapshot", "", "mount this snapshot, to be read only; DEVICE may be the directory where the volume is mounted")
	f.BoolVar(&o.foreground, "foreground", false, "serve in this process and return when it is unmounted")
	f.Var(&o.memory, "memory", "bound of what the volume keeps in memory, at least 32MiB")
	f.StringVar(&o.anchorFile, "anchor-file", "", "file that keeps the volume's anchor, away from its device")
	f.StringArrayVarP(&o.options, "options", "o", nil, "mount options, separated by commas")
	f.IntVar(&o.readyFD, "ready-fd", 0, "")
	if err := f.MarkHidden("ready-fd"); err != nil {
		panic(err)
	}
	return c
}

// check reads the options; its errors are of usage.
func (o *mountOptions) check() error {
	if o.memory < minMemory {
		return usageError(fmt.Errorf("--memory %s: a mount needs at least 32MiB", o.memory.String()))
	}
	o.readOnly = o.readOnly || o.snapshot != ""
	o.mount.Private = os.Geteuid() != 0 // fusermount3 allows no other by default
	for _, list := range o.options {
		for _, opt := range splitOptions(list) {
			switch opt {
			case "allow_other":
				o.mount.Private = false
				continue
			case "", "default_permissions", "defaults":
				continue
			case "discard", "nodiscard":
				o.discard = opt == "discard"
				continue
			case "ro":
				o.readOnly = true
			case "rw":
				if o.snapshot != "" {
					return usageError(errors.New("-o rw: a snapshot can only be read"))
				}
				o.readOnly = false
			}
			o.mount.Options = append(o.mount.Options, opt)
		}
	}
	if err := checkOptions(o.mount.Options); err != nil {
		return usageError(err)
	}
	if o.readOnly {
		o.mount.Options = append(o.mount.Options, "ro")
	}
	return nil
}

// knownOptions are those of fusefs.MountOptions.
const knownOptions = " ro rw suid nosuid dev nodev exec noexec atime noatime relatime diratime nodiratime sync async dirsync "

func checkOptions(opts []string) error {
	for _, opt := range opts {
		name, _, hasValue := strings.Cut(opt, "=")
		switch name {
		case "context", "fscontext", "defcontext", "rootcontext":
			if hasValue {
				continue
			}
		}
		if hasValue || !strings.Contains(knownOptions, " "+opt+" ") {
			return fmt.Errorf("-o %s: unknown mount option", opt)
		}
	}
	return nil
}

// splitOptions cuts at commas outside quotes: SELinux contexts contain them.
func splitOptions(list string) []string {
	quoted := false
	return strings.FieldsFunc(list, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	})
}

// mountPoint checks the directory to mount on, and removes what a dead server left there.
func mountPoint(dir string) (string, error) {
	abs, err := mounts.Prepare(dir)
	switch {
	case errors.Is(err, mounts.ErrMounted):
		err = withHint(err, "choose another directory, or unmount it: sealvol umount "+dir)
	case errors.Is(err, mounts.ErrNoDir):
		err = withHint(err, "make the directory first")
	}
	return abs, err
}

// mountBeside mounts a snapshot of a volume that is mounted.
func mountBeside(o *mountOptions, c *control.Client, err error, target, dir string) error {
	if err != nil {
		return err
	}
	if o.foreground {
		return usageError(errors.New("--foreground: the server of the mounted volume serves the snapshot"))
	}
	if o.anchorFile != "" {
		return usageError(errors.New("--anchor-file: it is the server of the mounted volume that keeps the anchor"))
	}
	if err := o.check(); err != nil {
		return err
	}
	if err := checkKey(c, target, &o.key); err != nil {
		return err
	}
	abs, err := mountPoint(dir)
	if err != nil {
		return err
	}
	o.mount.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	slow, err := mounts.MountSnapshot(context.Background(), c, target, o.snapshot, abs, o.mount)
	if slow != nil && os.Geteuid() == 0 {
		say(os.Stderr, "read-ahead stays at the kernel's default: %v\n", slow)
	}
	return err
}

// verdict is the one message of a server to the process that started it.
type verdict struct {
	OK    bool   `json:"ok,omitempty"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	Code  int    `json:"code,omitempty"`
}

// startServer starts this program again as the server, and waits until the
// file system answers. The server gets the key file as a descriptor, so that
// also /dev/stdin and the like work; this process never reads it.
func startServer(o *mountOptions, dev, dir string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	flag, path := o.key.chosen()
	key, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the key: %w", err)
	}
	defer key.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	const readyFD, keyFD = 3, 4
	argv := []string{"mount", "--ready-fd", strconv.Itoa(readyFD), "--" + flag, "/dev/fd/" + strconv.Itoa(keyFD),
		"--memory", strconv.FormatInt(int64(o.memory), 10)}
	if o.readOnly {
		argv = append(argv, "--read-only")
	}
	if o.snapshot != "" {
		argv = append(argv, "--snapshot", o.snapshot)
	}
	if o.anchorFile != "" {
		path, err := filepath.Abs(o.anchorFile) // the server's directory is /
		if err != nil {
			return err
		}
		argv = append(argv, "--anchor-file", path)
	}
	for _, opt := range o.options {
		argv = append(argv, "-o", opt)
	}
	cmd := exec.Command(exe, append(argv, "--", mounts.Absolute(dev), dir)...)
	cmd.Args[0] = os.Args[0]
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{w, key}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the mount server: %w", err)
	}
	w.Close()
	var v verdict
	if err := json.NewDecoder(bufio.NewReader(r)).Decode(&v); err != nil {
		return fmt.Errorf("the mount server ended before the file system answered: %w", cmd.Wait())
	}
	if v.OK {
		return cmd.Process.Release()
	}
	_ = cmd.Wait() // it has said why
	return &codeError{err: errors.New(v.Error), code: v.Code, hint: v.Hint}
}

// serveForParent is the server's side of startServer.
func serveForParent(o *mountOptions, dev, dir string) error {
	unix.CloseOnExec(o.readyFD)
	pipe := os.NewFile(uintptr(o.readyFD), "ready")
	told := false
	tell := func(v verdict) error {
		told = true
		defer pipe.Close()
		return json.NewEncoder(pipe).Encode(v)
	}
	err := serve(o, dev, dir, func() error { return tell(verdict{OK: true}) })
	if err != nil && !told {
		return errors.Join(errReported, tell(verdict{Error: err.Error(), Hint: hint(err), Code: exitCode(err)}))
	}
	return err
}
