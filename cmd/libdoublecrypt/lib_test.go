package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run runs a program and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1") // signals on another stack confuse valgrind
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

const cflags = "-Wall -Wextra -Werror -g -I."

func compile(t *testing.T, dir, source, name string, libs ...string) string {
	t.Helper()
	program := filepath.Join(dir, name)
	run(t, "gcc", append(append(strings.Fields(cflags), source, "-o", program), libs...)...)
	return program
}

// TestLibrary builds both libraries, and uses them from C and Python.
func TestLibrary(t *testing.T) {
	dir := t.TempDir()
	shared, static := filepath.Join(dir, "libdoublecrypt.so"), filepath.Join(dir, "libdoublecrypt.a")
	run(t, "go", "build", "-buildmode=c-shared", "-o", shared, ".")
	run(t, "go", "build", "-buildmode=c-archive", "-o", static, ".")
	dynamic := compile(t, dir, "testdata/test.c", "dynamic", shared, "-Wl,-rpath,"+dir)
	whole := compile(t, dir, "testdata/test.c", "static", static, "-lpthread")
	for _, c := range [][]string{
		{dynamic, filepath.Join(dir, "image1")},
		{whole, filepath.Join(dir, "image2")},
		{"python3", "-B", "testdata/test.py", shared, filepath.Join(dir, "image3")},
	} {
		if out := run(t, c[0], c[1:]...); out != "ok\n" {
			t.Errorf("%s: %s", c[0], out)
		}
	}
	example := compile(t, dir, "../../examples/create_image/c/create_image.c", "create_image", static, "-lpthread")
	for _, c := range []struct {
		program []string
		want    []string
	}{
		{[]string{example}, []string{`"name":"hello.txt","kind":"File","size":20,`, `"name":"pattern.bin","kind":"File","size":200000,`, `"name":"notes","kind":"Directory"`, `/notes: [{"name":"secret.txt","kind":"File","size":24,`}},
		{[]string{"go", "run", "../../examples/create_image"}, []string{"/: hello.txt, 20 bytes\n", "/: pattern.bin, 200000 bytes\n", "/: notes, 0 bytes\n", "/notes: secret.txt, 24 bytes\n"}},
	} {
		image := filepath.Join(t.TempDir(), "image")
		out := run(t, c.program[0], append(c.program[1:], image)...)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s prints %s, without %s", c.program[0], out, want)
			}
		}
		if fi, err := os.Stat(image); err != nil || fi.Size() != 64<<16 {
			t.Errorf("%s: %v", c.program[0], err)
		}
	}
}

// TestSymbols checks that the library exports the functions of the reference implementation and no
// others of ours.
func TestSymbols(t *testing.T) {
	header, err := os.ReadFile("doublecrypt.h")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(source)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "//export ")
		if !ok {
			continue
		}
		count++
		if !strings.Contains(string(header), name+"(") {
			t.Errorf("%s is not in the header", name)
		}
	}
	if count != 21 {
		t.Errorf("%d functions, not 21", count)
	}
}

// TestValgrind runs the C test under memcheck. A special build of Go tells valgrind about stacks
// and the heap. Valgrind cannot search for leaks, because Go's heap is too large for it. Therefore
// the test counts the memory that malloc allocated.
func TestValgrind(t *testing.T) {
	if testing.Short() {
		return // it rebuilds the Go standard library
	}
	dir := t.TempDir()
	shared := filepath.Join(dir, "libdoublecrypt.so")
	run(t, "go", "build", "-tags", "valgrind", "-ldflags=-w", "-buildmode=c-shared", "-o", shared, ".")
	program := compile(t, dir, "testdata/test.c", "test", shared, "-Wl,-rpath,"+dir)
	out := run(t, "valgrind", "--quiet", "--error-exitcode=9", "--leak-check=no", "--suppressions=testdata/valgrind.supp", program, filepath.Join(dir, "image"))
	if !strings.Contains(out, "ok\n") {
		t.Errorf("it prints %s", out)
	}
}
