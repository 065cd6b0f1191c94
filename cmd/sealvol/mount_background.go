package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
