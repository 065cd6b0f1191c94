package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// sqlite runs statements in a new database.
func (e *env) sqlite(row string, n int, setup string, statements func(w *strings.Builder)) error {
	db := e.path("db.sqlite")
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.RemoveAll(db + suffix); err != nil {
			return err
		}
	}
	if _, err := command(e.ctx, "sqlite3", db, setup+"CREATE TABLE t (id INTEGER PRIMARY KEY, k INTEGER, v BLOB);"); err != nil {
		return err
	}
	var script strings.Builder
	script.WriteString(setup)
	statements(&script)
	c := exec.CommandContext(e.ctx, "sqlite3", "-batch", "-bail", db)
	c.Stdin = strings.NewReader(script.String())
	start := time.Now()
	out, err := c.CombinedOutput()
	e.rate(row, n, start)
	if err != nil {
		return fmt.Errorf("sqlite3: %w: %s", err, out)
	}
	return nil
}

func inserts(n int) func(*strings.Builder) {
	return func(w *strings.Builder) {
		for i := range n {
			fmt.Fprintf(w, "INSERT INTO t (k, v) VALUES (%d, randomblob(100));\n", i)
		}
	}
}

func sqliteAutocommit(e *env) error {
	n := e.size.transaction
	return e.sqlite("sqlite", n, "PRAGMA synchronous=FULL;\n", inserts(n))
}

func sqliteWAL(e *env) error {
	n := e.size.wal
	return e.sqlite("sqlitewal", n, "PRAGMA journal_mode=WAL;\nPRAGMA synchronous=NORMAL;\n", inserts(n))
}

func sqliteBulk(e *env) error {
	n := e.size.rows
	return e.sqlite("sqlitebulk", n, "PRAGMA synchronous=FULL;\n", func(w *strings.Builder) {
		fmt.Fprintf(w, `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < %d)
INSERT INTO t (k, v) SELECT i, randomblob(100) FROM c;`, n)
	})
}
