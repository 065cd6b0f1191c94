package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/mountserver/mounts"
)

// verdict is the only message of a server to the process that started it.
type verdict struct {
	OK    bool   `json:"ok,omitempty"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	Code  int    `json:"code,omitempty"`
}

// startServer starts this program again as the server, and waits until the file system answers. The
// server gets the key file as a descriptor, so that pipes such as /dev/stdin also work. This
// process never reads the key.
func startServer(o *mountOptions, dev, dir string) error {
	flag, path := o.key.chosen()
	b := &background{}
	defer b.close()
	if err := b.secret(flag, path); err != nil {
		return err
	}
	argv := []string{"--memory", strconv.FormatInt(int64(o.memory), 10)}
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
	return b.start([]string{"mount"}, append(argv, "--", mounts.Absolute(dev), dir)...)
}

// background starts this program again as a server.
type background struct {
	argv  []string // flags for what it inherits
	files []*os.File
}

// readyFD is the descriptor of the pipe to the process that started a server. Those of its secrets
// follow.
const readyFD = 3

// secret opens a file that the server reads: the value of a flag.
func (b *background) secret(flag, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the key: %w", err)
	}
	b.files = append(b.files, f)
	b.argv = append(b.argv, "--"+flag, "/dev/fd/"+strconv.Itoa(readyFD+len(b.files)))
	return nil
}

func (b *background) close() {
	for _, f := range b.files {
		discard(f)
	}
}

// start runs a command as the server, and waits until the file system answers.
func (b *background) start(command []string, args ...string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	argv := slices.Concat(command, []string{"--ready-fd", strconv.Itoa(readyFD)}, b.argv, args)
	cmd := exec.Command(exe, argv...)
	cmd.Args[0] = os.Args[0]
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	cmd.ExtraFiles = append([]*os.File{w}, b.files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C must not end it
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the mount server: %w", err)
	}
	w.Close()
	var v verdict
	if err := json.NewDecoder(bufio.NewReader(r)).Decode(&v); err != nil {
		return withHint(fmt.Errorf("the mount server ended before the file system answered: %w", cmd.Wait()), "run the command with --foreground to see why")
	}
	if v.OK {
		return cmd.Process.Release()
	}
	_ = cmd.Wait() // the verdict has the cause
	return &codeError{err: errors.New(v.Error), code: v.Code, hint: v.Hint}
}

// forParent is the server's side of background.start: it runs serve, and tells the parent how that
// begins.
func forParent(fd int, serve func(ready func() error) error) error {
	unix.CloseOnExec(fd)
	pipe := os.NewFile(uintptr(fd), "ready")
	told := false
	tell := func(v verdict) error {
		told = true
		defer pipe.Close()
		return json.NewEncoder(pipe).Encode(v)
	}
	err := serve(func() error { return tell(verdict{OK: true}) })
	if err != nil && !told {
		return errors.Join(errReported, tell(verdict{Error: err.Error(), Hint: hint(err), Code: exitCode(err)}))
	}
	return err
}
