package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// run runs a program and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1") // signals on another stack confuse valgrind
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func compile(t *testing.T, dir, name string, libs ...string) string {
	t.Helper()
	program := filepath.Join(dir, name)
	run(t, "gcc", append([]string{"-Wall", "-Wextra", "-Werror", "-g", "-I.", "testdata/test.c", "-o", program}, libs...)...)
	return program
}

// TestLibrary builds both libraries and uses all functions from C. The test of the Python package
// is test/interop/selfenc.
func TestLibrary(t *testing.T) {
	dir := t.TempDir()
	shared, static := filepath.Join(dir, "libselfenc.so"), filepath.Join(dir, "libselfenc.a")
	run(t, "go", "build", "-buildmode=c-shared", "-o", shared, ".")
	run(t, "go", "build", "-buildmode=c-archive", "-o", static, ".")
	for _, program := range []string{
		compile(t, dir, "dynamic", shared, "-Wl,-rpath,"+dir),
		compile(t, dir, "static", static, "-lpthread"),
	} {
		if out := run(t, program, t.TempDir()); out != "ok\n" {
			t.Errorf("%s: %s", program, out)
		}
	}
	// The header must have all prototypes that cgo generated.
	made, err := os.ReadFile(filepath.Join(dir, "libselfenc.h"))
	if err != nil {
		t.Fatal(err)
	}
	prototypes := regexp.MustCompile(`(?m)^extern .*selfenc_.*;$`).FindAllString(string(made), -1)
	if len(prototypes) != 10 {
		t.Errorf("%d functions: %q", len(prototypes), prototypes)
	}
	header, err := os.ReadFile("selfenc.h")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range prototypes {
		if name := regexp.MustCompile(`selfenc_\w+\(`).FindString(p); !strings.Contains(string(header), name) {
			t.Errorf("%s) is not in the header", name)
		}
	}
	both := filepath.Join(dir, "both.c")
	text := "#include <selfenc.h>\ntypedef const char text_t;\ntypedef const uint8_t bytes_t;\n" + strings.Join(prototypes, "\n") + "\n"
	if err := os.WriteFile(both, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "gcc", "-Wall", "-Werror", "-Wno-array-parameter", "-I.", "-fsyntax-only", both)
}

// TestValgrind runs the C test under memcheck, like that of libdoublecrypt.
func TestValgrind(t *testing.T) {
	if testing.Short() {
		return // it rebuilds the Go standard library
	}
	dir := t.TempDir()
	shared := filepath.Join(dir, "libselfenc.so")
	run(t, "go", "build", "-tags", "valgrind", "-ldflags=-w", "-buildmode=c-shared", "-o", shared, ".")
	program := compile(t, dir, "test", shared, "-Wl,-rpath,"+dir)
	out := run(t, "valgrind", "--quiet", "--error-exitcode=9", "--leak-check=no", "--suppressions=testdata/valgrind.supp", program, dir, "quick")
	if !strings.Contains(out, "ok\n") {
		t.Errorf("it prints %s", out)
	}
}
