package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// command runs a program to its end.
func command(ctx context.Context, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	c.Stderr = &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // this process handles interrupts
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// server is the process of a mount server.
type server struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *bufio.Reader
	commands bool // it accepts the commands profile and stop
	done     chan struct{}
	err      error // set before done is closed
}

func startServer(input string, name string, args ...string) (*server, error) {
	p := &server{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout = outW
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close(), outW.Close())
	}
	outW.Close()
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if input != "" {
		_, err = io.WriteString(in, input+"\n")
	}
	return p, err
}

// command sends a line and waits for the answer.
func (p *server) command(line string) error {
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		return err
	}
	answer, err := p.out.ReadString('\n')
	if err != nil {
		return err
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return errors.New(answer)
	}
	return nil
}

// wait waits for the end of a server after its mount has ended.
func (p *server) wait() error {
	select {
	case <-p.done:
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("the server did not end within %v and was killed", patience), p.cmd.Process.Kill())
	}
	_ = p.in.Close() // its output is no longer read
	return p.err
}

// untilMounted waits until dir is a mount point.
func (p *server) untilMounted(ctx context.Context, dir string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := fusefs.ConnectionID(dir); err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("the server ended: %w", p.err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), p.cmd.Process.Kill())
		case <-tick.C:
		}
	}
}
