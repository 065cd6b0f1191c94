package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// postgresTool finds a program of the server. On Debian it is not in PATH.
func postgresTool(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		if real, err := filepath.EvalSymlinks(p); err == nil && filepath.Base(real) == name {
			return real
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is good
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

func noPostgres() string {
	for _, tool := range []string{"initdb", "pg_ctl", "postgres", "pgbench"} {
		if postgresTool(tool) == "" {
			return fmt.Sprintf("PostgreSQL's %s is not installed", tool)
		}
	}
	if _, err := user.Lookup("postgres"); err != nil {
		return "there is no user postgres to run the server (it refuses to run as root)"
	}
	return ""
}

// postgres runs a program of PostgreSQL as the user postgres.
func (e *env) postgres(ctx context.Context, tool string, args ...string) (string, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return "", err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return "", err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return "", err
	}
	// Write the output to a file, because the server would keep a pipe open.
	log, err := os.CreateTemp(e.sys.work, tool)
	if err != nil {
		return "", err
	}
	defer os.Remove(log.Name()) //nolint:errcheck // the directory is removed soon
	defer log.Close()
	c := exec.CommandContext(ctx, postgresTool(tool), args...)
	c.Dir = "/"
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	err = c.Run()
	out, _ := os.ReadFile(log.Name()) // only for the message
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", tool, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

func (e *env) cluster() string { return e.path("pg") }

// socket returns the directory of the socket that the server listens on. It never uses the network.
func (e *env) socket() string { return e.sys.work }

func initPostgres(e *env) error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	if err := os.Chmod(e.socket(), 0o1777); err != nil {
		return err
	}
	if err := os.Mkdir(e.cluster(), 0o700); err != nil {
		return err
	}
	if err := os.Chown(e.cluster(), uid, -1); err != nil {
		return err
	}
	_, err = e.postgres(e.ctx, "initdb", "--no-sync", "--auth=trust", "--pgdata", e.cluster())
	return err
}

var tps = regexp.MustCompile(`tps = ([0-9.]+)`)

func runPgbench(e *env) (err error) {
	options := fmt.Sprintf("-c listen_addresses= -c unix_socket_directories=%s -c autovacuum=off", e.socket())
	if _, err := e.postgres(e.ctx, "pg_ctl", "-w", "-D", e.cluster(), "-l", filepath.Join(e.socket(), "log"), "-o", options, "start"); err != nil {
		log, _ := os.ReadFile(filepath.Join(e.socket(), "log")) // only for the message
		return fmt.Errorf("%w: %s", err, log)
	}
	defer func() {
		_, stopErr := e.postgres(context.Background(), "pg_ctl", "-w", "-m", "fast", "-D", e.cluster(), "stop")
		err = errors.Join(err, stopErr, os.RemoveAll(e.cluster()), os.RemoveAll(filepath.Join(e.socket(), "log")))
	}()
	size := strconv.Itoa(e.size.pgScale)
	if _, err := e.postgres(e.ctx, "pgbench", "-h", e.socket(), "-i", "-q", "-s", size, "postgres"); err != nil {
		return err
	}
	out, err := e.postgres(e.ctx, "pgbench", "-h", e.socket(), "-n", "-c", "4", "-j", "2",
		"-T", strconv.Itoa(int(e.size.pgFor.Seconds())), "postgres")
	if err != nil {
		return err
	}
	m := tps.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("the output of pgbench has no rate: %s", out)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	e.put("pgbench", v)
	return err
}
