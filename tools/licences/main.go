// Command licences reads the licences of all modules that are linked into the programs and
// libraries that Sealvol ships. It fails for a module without a licence, or with one that is not
// allowed.
//
//	licences -root DIR [-write]
//
// It writes two files: NOTICE lists the modules, their licences and their notices, and
// THIRD-PARTY-LICENSES has the texts. Without -write, it fails if these are not up to date.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	noticeFile = "NOTICE"
	textsFile  = "THIRD-PARTY-LICENSES"
)

func main() {
	root := flag.String("root", ".", "root directory of the repository")
	write := flag.Bool("write", false, "write "+noticeFile+" and "+textsFile)
	flag.Parse()
	if err := run(*root, *write); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(root string, write bool) error {
	modules, err := linked(root)
	if err != nil {
		return err
	}
	var all error
	for _, m := range modules {
		all = errors.Join(all, m.judge())
	}
	if all != nil {
		return all
	}
	for name, want := range map[string][]byte{noticeFile: notice(modules), textsFile: texts(modules)} {
		file := filepath.Join(root, name)
		have, err := os.ReadFile(file)
		switch {
		case err == nil && bytes.Equal(have, want):
		case write:
			all = errors.Join(all, os.WriteFile(file, want, 0o644))
		default:
			all = errors.Join(all, fmt.Errorf("%s is not up to date: make generate", name))
		}
	}
	return all
}

// notice returns what users see first: the modules, their licences and their notices.
func notice(modules []*module) []byte {
	var b bytes.Buffer
	b.WriteString("Sealvol\nCopyright The Sealvol authors\n\n" +
		"Licensed under the Apache License, Version 2.0; see LICENSE.\n\n" +
		"Sealvol's programs and libraries include the following software. " + textsFile + " has the texts\n" +
		"of the licences. make generate writes both files (tools/licences).\n\n")
	for _, m := range modules {
		fmt.Fprintf(&b, "  %s: %s\n", m.path, strings.Join(m.ids(), ", "))
	}
	b.WriteString("\nThe following notices come with this software:\n")
	for _, group := range grouped(modules, func(m *module) []document { return m.notices }) {
		b.WriteString(group)
	}
	return b.Bytes()
}

// texts returns the texts of all licences, each once.
func texts(modules []*module) []byte {
	var b bytes.Buffer
	b.WriteString("Licences of the software that is included in Sealvol's programs and libraries.\n" +
		"make generate writes this file (tools/licences).\n")
	for _, group := range grouped(modules, func(m *module) []document { return m.licences }) {
		b.WriteString(group)
	}
	return b.Bytes()
}

// grouped returns each text once, below the names of all modules that have it, in the order of the
// first name.
func grouped(modules []*module, of func(*module) []document) (groups []string) {
	owners, order := map[string][]string{}, []string{}
	for _, m := range modules {
		for _, d := range of(m) {
			text := strings.TrimSpace(strings.ReplaceAll(d.text, "\r\n", "\n"))
			if owners[text] == nil {
				order = append(order, text)
			}
			owners[text] = append(owners[text], d.name)
		}
	}
	line := strings.Repeat("-", 80)
	for _, text := range order {
		groups = append(groups, fmt.Sprintf("\n%s\n%s\n%s\n\n%s\n", line, strings.Join(owners[text], "\n"), line, text))
	}
	return groups
}
