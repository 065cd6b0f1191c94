// Package pkg holds nothing but tests of the whole source: who may import whom, and how long
// files and functions are.
package pkg

import (
	"errors"
	"go/build"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sealvol/sealvol/"

// allowed lists what each package may import of this module. Imports point
// down: a package stands below all that it is listed under. A new package
// needs a line here; its tests may also import whatever lies further down, and
// packages of test helpers (…test).
var allowed = map[string][]string{
	"pkg/atomicfile":                 {},
	"pkg/crypto":                     {},
	"pkg/crypto/forgetest":           {"pkg/crypto"},
	"pkg/volume/vfs":                 {},
	"pkg/volume/logical":             {"pkg/volume/vfs"},
	"pkg/volume/logical/whole":       {"pkg/volume/internal/posixacl", "pkg/volume/logical", "pkg/volume/vfs"},
	"pkg/volume/vfs/vfstest":         {"pkg/volume/internal/posixacl", "pkg/volume/vfs"},
	"pkg/volume/device":              {},
	"pkg/volume/device/devicetest":   {"pkg/volume/device"},
	"pkg/volume/internal/posixacl":   {"pkg/volume/vfs"},
	"pkg/volume/internal/layout":     {"pkg/crypto", "pkg/volume/vfs"},
	"pkg/volume/internal/tree":       {"pkg/volume/internal/layout"},
	"pkg/volume/internal/txn":        {"pkg/crypto", "pkg/volume/device", "pkg/volume/internal/layout", "pkg/volume/internal/tree", "pkg/volume/vfs"},
	"pkg/volume/internal/items":      {"pkg/volume/internal/layout", "pkg/volume/internal/posixacl", "pkg/volume/internal/tree", "pkg/volume/vfs"},
	"pkg/volume/internal/shares":     {"pkg/volume/internal/items", "pkg/volume/internal/layout", "pkg/volume/internal/tree", "pkg/volume/internal/txn"},
	"pkg/volume/internal/diff":       {"pkg/volume/internal/items", "pkg/volume/internal/layout", "pkg/volume/internal/tree", "pkg/volume/vfs"},
	"pkg/volume/internal/probe":      {"pkg/volume/device", "pkg/volume/internal/header", "pkg/volume/internal/layout", "pkg/volume/vfs"},
	"pkg/volume/internal/header":     {"pkg/crypto", "pkg/volume/device", "pkg/volume/internal/items", "pkg/volume/internal/layout", "pkg/volume/internal/tree", "pkg/volume/internal/txn", "pkg/volume/vfs"},
	"pkg/volume/check":               {"pkg/crypto", "pkg/volume/device", "pkg/volume/internal/header", "pkg/volume/internal/items", "pkg/volume/internal/layout", "pkg/volume/internal/tree", "pkg/volume/internal/txn", "pkg/volume/vfs"},
	"pkg/volume/namehash":            {"pkg/volume/internal/items", "pkg/volume/internal/layout"},
	"pkg/volume/pinned":              {"pkg/crypto", "pkg/volume/device", "pkg/volume/internal/header", "pkg/volume/internal/items", "pkg/volume/internal/layout", "pkg/volume/internal/tree", "pkg/volume/internal/txn", "pkg/volume/logical", "pkg/volume/vfs"},
	"pkg/volume":                     {"pkg/crypto", "pkg/volume/device", "pkg/volume/internal/diff", "pkg/volume/internal/header", "pkg/volume/internal/items", "pkg/volume/internal/layout", "pkg/volume/internal/posixacl", "pkg/volume/internal/probe", "pkg/volume/internal/shares", "pkg/volume/internal/tree", "pkg/volume/internal/txn", "pkg/volume/logical", "pkg/volume/logical/whole", "pkg/volume/pinned", "pkg/volume/vfs"},
	"pkg/volume/volumetest":          {"pkg/crypto", "pkg/volume", "pkg/volume/device", "pkg/volume/vfs"},
	"pkg/volume/fusefs":              {"pkg/volume/vfs"},
	"pkg/volume/fusefs/fusefstest":   {"pkg/volume/fusefs", "pkg/volume/vfs"},
	"pkg/volume/doublecrypt":         {"pkg/crypto", "pkg/volume/device", "pkg/volume/vfs"},
	"pkg/backend":                    {},
	"pkg/backend/backendtest":        {"pkg/backend"},
	"pkg/backend/local":              {"pkg/atomicfile", "pkg/backend", "pkg/requestid"},
	"pkg/awsclient":                  {},
	"pkg/backend/ebs":                {"pkg/awsclient", "pkg/backend", "pkg/requestid"},
	"pkg/backend/ebs/ec2test":        {},
	"pkg/mounter":                    {"pkg/atomicfile", "pkg/mounter/control", "pkg/mounter/workerctl", "pkg/requestid"},
	"pkg/mounter/workerctl":          {},                    // no key
	"pkg/mounter/pacing":             {"pkg/volume/device"}, // no key
	"pkg/mounter/handover":           {"pkg/crypto", "pkg/mounter/pacing", "pkg/volume/pinned"},
	"pkg/mounter/worker":             {"pkg/crypto", "pkg/mounter/control", "pkg/mounter/handover", "pkg/mounter/pacing", "pkg/mounter/workerctl", "pkg/requestid", "pkg/selfenc/chunkstore", "pkg/selfenc/chunkstore/storerpc", "pkg/volume/device"},
	"pkg/mounter/workerstore":        {"pkg/selfenc/chunkstore", "pkg/selfenc/chunkstore/storerpc", "pkg/snapshot/format"}, // no key
	"pkg/mounter/control":            {"pkg/requestid"},
	"pkg/mounter/volumectl":          {"pkg/crypto", "pkg/mounter/control", "pkg/volume", "pkg/volume/vfs"},
	"pkg/mounter/mountertest":        {"pkg/mounter", "pkg/mounter/control"},
	"pkg/csi":                        {"pkg/backend", "pkg/mounter", "pkg/mounter/control", "pkg/requestid"}, // for the types and errors of its Mounter interface
	"pkg/mountserver":                {"pkg/atomicfile", "pkg/crypto", "pkg/mounter", "pkg/mounter/control", "pkg/mounter/handover", "pkg/mounter/pacing", "pkg/mounter/volumectl", "pkg/mounter/workerctl", "pkg/volume", "pkg/volume/device", "pkg/volume/doublecrypt", "pkg/volume/fusefs", "pkg/volume/pinned", "pkg/volume/vfs"},
	"pkg/mountserver/mounts":         {"pkg/mounter/control", "pkg/mounter/volumectl", "pkg/volume/device", "pkg/volume/fusefs"},
	"pkg/requestid":                  {},
	"cmd/ec2":                        {"pkg/backend/ebs/ec2test"},
	"pkg/api/v1alpha1":               {},
	"pkg/operator":                   {"pkg/api/v1alpha1", "pkg/crypto"},
	"pkg/operator/operatortest":      {"pkg/operator"},
	"pkg/operator/matrixtest":        {},                                                                        // tests alone
	"pkg/nodeagent":                  {"pkg/api/v1alpha1", "pkg/backend", "pkg/mounter", "pkg/mounter/control"}, // of the backend, what a FormatKeeper is
	"cmd/operator":                   {"pkg/crypto", "pkg/operator"},
	"cmd/driver":                     {"pkg/snapshot/job", "pkg/backend", "pkg/backend/ebs", "pkg/backend/local", "pkg/crypto", "pkg/csi", "pkg/mounter", "pkg/mounter/control", "pkg/mounter/volumectl", "pkg/mounter/worker", "pkg/mounter/workerctl", "pkg/mountserver", "pkg/nodeagent", "pkg/requestid"},
	"cmd/demo":                       {"pkg/mounter"},
	"cmd/bench":                      {"pkg/crypto", "pkg/volume", "pkg/volume/device", "pkg/volume/fusefs", "pkg/volume/vfs", "pkg/volume/vfs/vfstest"},
	"cmd/libdoublecrypt":             {"pkg/crypto", "pkg/volume/device", "pkg/volume/doublecrypt", "pkg/volume/vfs"},
	"cmd/sealvol":                    {"pkg/atomicfile", "pkg/crypto", "pkg/mounter/control", "pkg/mounter/pacing", "pkg/mounter/volumectl", "pkg/mountserver", "pkg/mountserver/mounts", "pkg/selfenc", "pkg/selfenc/chunkstore", "pkg/snapshot/commit", "pkg/snapshot/create", "pkg/snapshot/diff", "pkg/snapshot/format", "pkg/snapshot/gc", "pkg/snapshot/local", "pkg/snapshot/lock", "pkg/snapshot/manifest", "pkg/snapshot/merkle", "pkg/snapshot/pack", "pkg/snapshot/reading", "pkg/snapshot/restore", "pkg/snapshot/retention", "pkg/snapshot/snapstore", "pkg/snapshot/trial", "pkg/snapshot/verify", "pkg/snapshot/view", "pkg/volume", "pkg/volume/check", "pkg/volume/device", "pkg/volume/doublecrypt", "pkg/volume/doublecrypt/convert", "pkg/volume/fusefs", "pkg/volume/logical", "pkg/volume/pinned", "pkg/volume/vfs", "pkg/volume/vfs/copyout", "pkg/volume/vfs/walk"},
	"pkg/volume/doublecrypt/convert": {"pkg/crypto", "pkg/volume", "pkg/volume/device", "pkg/volume/doublecrypt", "pkg/volume/vfs", "pkg/volume/vfs/walk"},
	"pkg/volume/vfs/copyout":         {"pkg/volume/vfs", "pkg/volume/vfs/walk"},
	"pkg/volume/vfs/walk":            {"pkg/volume/vfs"},

	"pkg/selfenc":                           {"pkg/crypto"},
	"pkg/selfenc/chunkstore":                {"pkg/atomicfile", "pkg/awsclient", "pkg/selfenc"},
	"pkg/selfenc/chunkstore/chunkstoretest": {"pkg/selfenc/chunkstore"},
	"cmd/libselfenc":                        {"pkg/atomicfile", "pkg/selfenc"},
	"pkg/selfenc/chunkstore/storerpc":       {"pkg/selfenc/chunkstore"},

	"pkg/snapshot":                         {}, // tests alone
	"pkg/snapshot/internal/draw":           {},
	"pkg/snapshot/fetch":                   {"pkg/selfenc", "pkg/snapshot/format", "pkg/snapshot/pack"},
	"pkg/snapshot/view":                    {"pkg/selfenc", "pkg/snapshot/fact", "pkg/snapshot/merkle", "pkg/snapshot/pack", "pkg/volume/logical", "pkg/volume/namehash", "pkg/volume/vfs"},
	"pkg/snapshot/trial":                   {"pkg/crypto", "pkg/selfenc", "pkg/selfenc/chunkstore", "pkg/snapshot/create", "pkg/snapshot/fact", "pkg/snapshot/format", "pkg/snapshot/merkle", "pkg/snapshot/restore", "pkg/snapshot/stored", "pkg/snapshot/verify", "pkg/volume", "pkg/volume/check", "pkg/volume/device", "pkg/volume/logical", "pkg/volume/pinned", "pkg/volume/vfs"},
	"pkg/snapshot/verify":                  {"pkg/selfenc", "pkg/selfenc/chunkstore", "pkg/snapshot/fact", "pkg/snapshot/fetch", "pkg/snapshot/format", "pkg/snapshot/merkle", "pkg/snapshot/pack", "pkg/volume/logical", "pkg/volume/logical/whole", "pkg/volume/namehash"},
	"pkg/snapshot/restore":                 {"pkg/selfenc", "pkg/snapshot/fact", "pkg/snapshot/fetch", "pkg/snapshot/merkle", "pkg/volume/logical", "pkg/volume/vfs", "pkg/volume/vfs/copyout"},
	"pkg/snapshot/stored":                  {"pkg/crypto", "pkg/selfenc", "pkg/selfenc/chunkstore", "pkg/snapshot/diff", "pkg/snapshot/fact", "pkg/snapshot/fetch", "pkg/snapshot/format", "pkg/snapshot/manifest", "pkg/snapshot/merkle", "pkg/snapshot/pack", "pkg/snapshot/restore", "pkg/snapshot/verify", "pkg/snapshot/view", "pkg/volume/namehash"},
	"pkg/snapshot/job":                     {"pkg/crypto", "pkg/mounter/handover", "pkg/mounter/worker", "pkg/mounter/workerctl", "pkg/snapshot/commit", "pkg/snapshot/create", "pkg/snapshot/format", "pkg/snapshot/lock", "pkg/snapshot/manifest", "pkg/snapshot/snapstore", "pkg/volume/pinned"},
	"pkg/snapshot/create":                  {"pkg/crypto", "pkg/selfenc", "pkg/selfenc/chunkstore", "pkg/snapshot/commit", "pkg/snapshot/fact", "pkg/snapshot/format", "pkg/snapshot/manifest", "pkg/snapshot/merkle", "pkg/snapshot/pack", "pkg/snapshot/stored", "pkg/volume/logical", "pkg/volume/pinned"},
	"pkg/snapshot/format":                  {"pkg/snapshot/internal/draw"},                    // no key, no store
	"pkg/snapshot/commit":                  {"pkg/selfenc/chunkstore", "pkg/snapshot/format"}, // no key
	"pkg/snapshot/gc":                      {"pkg/selfenc/chunkstore", "pkg/snapshot/format"}, // no key
	"pkg/snapshot/pack":                    {"pkg/crypto", "pkg/selfenc", "pkg/selfenc/chunkstore", "pkg/snapshot/format"},
	"pkg/snapshot/manifest":                {"pkg/crypto", "pkg/selfenc", "pkg/snapshot/format"},
	"pkg/snapshot/lock":                    {"pkg/selfenc/chunkstore", "pkg/snapshot/format"}, // no key
	"pkg/snapshot/retention":               {},
	"pkg/snapshot/merkle":                  {"pkg/crypto", "pkg/selfenc", "pkg/volume/logical"},
	"pkg/snapshot/fact":                    {"pkg/selfenc", "pkg/volume/logical", "pkg/volume/vfs"},
	"pkg/snapshot/diff":                    {"pkg/selfenc", "pkg/snapshot/fact", "pkg/snapshot/merkle", "pkg/volume", "pkg/volume/logical", "pkg/volume/vfs"},
	"pkg/snapshot/local":                   {"pkg/crypto", "pkg/selfenc/chunkstore", "pkg/snapshot/commit", "pkg/snapshot/create", "pkg/snapshot/format", "pkg/snapshot/manifest", "pkg/snapshot/snapstore"},
	"pkg/snapshot/reading":                 {"pkg/crypto", "pkg/selfenc/chunkstore", "pkg/snapshot/commit", "pkg/snapshot/format", "pkg/snapshot/snapstore", "pkg/snapshot/stored"},
	"pkg/snapshot/snapstore":               {"pkg/crypto", "pkg/selfenc/chunkstore", "pkg/snapshot/commit", "pkg/snapshot/format", "pkg/snapshot/manifest"},
	"pkg/snapshot/snapstore/snapstoretest": {"pkg/crypto", "pkg/selfenc/chunkstore", "pkg/snapshot/commit", "pkg/snapshot/format", "pkg/snapshot/manifest", "pkg/snapshot/pack", "pkg/snapshot/snapstore"},
}

// confined lists who may import which foreign modules: packages, or "cmd" and
// "test" for all commands and all packages of test helpers; "*" is everyone.
var confined = map[string][]string{
	"github.com/andybalholm/brotli":                            {"pkg/selfenc"},
	"github.com/aws/aws-sdk-go-v2":                             {"pkg/backend/ebs", "pkg/selfenc/chunkstore"},
	"github.com/aws/smithy-go":                                 {"pkg/backend/ebs", "pkg/selfenc/chunkstore"},
	"github.com/container-storage-interface/spec":              {"pkg/csi", "cmd"},
	"github.com/dchest/siphash":                                {"pkg/snapshot/merkle", "pkg/volume/internal/items", "pkg/volume/logical/whole"},
	"github.com/go-logr/logr":                                  {"pkg/operator", "cmd"}, // joins slog and the Kubernetes modules' log
	"github.com/hanwen/go-fuse/v2":                             {"pkg/volume/fusefs", "test"},
	"github.com/johannesboyne/gofakes3":                        {"pkg/selfenc/chunkstore", "cmd"}, // tests
	"github.com/klauspost/compress":                            {"pkg/selfenc", "pkg/volume"},
	"github.com/kubernetes-csi/csi-test/v5":                    {"pkg/csi", "cmd"},
	"github.com/kubernetes-csi/external-snapshotter/client/v8": {"pkg/nodeagent", "pkg/operator"},
	"github.com/moby/sys/mountinfo":                            {"*"},
	"github.com/onsi/ginkgo/v2":                                {"cmd"}, // csi-sanity
	"github.com/onsi/gomega":                                   {"cmd"},
	"github.com/prometheus/client_golang":                      {"pkg/operator"},
	"github.com/rogpeppe/go-internal":                          {"cmd"},
	"github.com/spf13/cobra":                                   {"cmd"},
	"github.com/spf13/pflag":                                   {"cmd"},
	"github.com/vbauerster/mpb/v8":                             {"cmd"},
	"github.com/zeebo/blake3":                                  {"pkg/crypto"},
	"golang.org/x/crypto":                                      {"pkg/crypto", "pkg/crypto/forgetest"},
	"golang.org/x/crypto/x509roots/fallback":                   {"cmd"},
	"golang.org/x/sync":                                        {"*"},
	"golang.org/x/sys":                                         {"*"},
	"golang.org/x/term":                                        {"cmd"},
	"google.golang.org/grpc":                                   {"pkg/csi", "cmd"},
	"google.golang.org/protobuf":                               {"pkg/csi", "cmd"},
	"k8s.io/api":                                               kubernetes,
	"k8s.io/apimachinery":                                      kubernetes,
	"k8s.io/client-go":                                         kubernetes,
	"k8s.io/klog/v2":                                           {"cmd"},
	"sigs.k8s.io/controller-runtime":                           kubernetes,
	"sigs.k8s.io/yaml":                                         {"test"},
}

// kubernetes are the packages that talk to an API server.
var kubernetes = []string{"pkg/api/v1alpha1", "pkg/operator", "pkg/nodeagent", "cmd", "test"}

// TestImports reads the files itself: what a `go list` process sees would not
// count for the test cache.
func TestImports(t *testing.T) {
	ctx := build.Default
	ctx.UseAllFiles = true // of every platform and tag
	found := 0
	for _, root := range []string{"pkg", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if path == filepath.Join("..", root) {
					return nil // no cmd yet
				}
				return err
			}
			if !d.IsDir() {
				return nil
			}
			if d.Name() == "testdata" {
				return filepath.SkipDir
			}
			pkg, err := ctx.ImportDir(path, 0)
			if noGo := (*build.NoGoError)(nil); errors.As(err, &noGo) {
				return nil
			}
			name := filepath.ToSlash(strings.TrimPrefix(path, "../"))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return nil
			}
			if name != "pkg" {
				found++
				checkImports(t, name, pkg)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 5 {
		t.Errorf("only %d packages found", found)
	}
}

func checkImports(t *testing.T, name string, pkg *build.Package) {
	list, ok := allowed[name]
	if !ok {
		t.Errorf("%s is not in pkg/deps_test.go: say there what it may import", name)
		return
	}
	for _, path := range pkg.Imports {
		if own, ok := strings.CutPrefix(path, module); ok && !slices.Contains(list, own) {
			t.Errorf("%s must not import %s", name, own)
		}
	}
	below := map[string]bool{name: true}
	descend(below, slices.Concat(list, testOnly[name]))
	for _, path := range slices.Concat(pkg.TestImports, pkg.XTestImports) {
		if own, ok := strings.CutPrefix(path, module); ok && !below[own] && !isTestHelper(own) {
			t.Errorf("the tests of %s must not import %s", name, own)
		}
	}
	for _, path := range slices.Concat(pkg.Imports, pkg.TestImports, pkg.XTestImports) {
		if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") && !strings.HasPrefix(path, module) {
			checkForeign(t, name, path)
		}
	}
}

// descend adds everything that the packages of list may reach.
func descend(below map[string]bool, list []string) {
	for _, p := range list {
		if !below[p] {
			below[p] = true
			descend(below, allowed[p])
		}
	}
}

func checkForeign(t *testing.T, name, path string) {
	mod := ""
	for m := range confined {
		if (path == m || strings.HasPrefix(path, m+"/")) && len(m) > len(mod) { // a module may lie in another's path
			mod = m
		}
	}
	if users, ok := confined[mod]; ok {
		for _, u := range users {
			if u == "*" || u == name || u == "cmd" && strings.HasPrefix(name, "cmd/") || u == "test" && isTestHelper(name) {
				return
			}
		}
		t.Errorf("%s must not import %s, which is confined to %v", name, path, users)
		return
	}
	t.Errorf("%s imports %s, whose module is not in pkg/deps_test.go", name, path)
}

// testOnly lists what the tests of a package need besides: real neighbours instead of fakes.
var testOnly = map[string][]string{
	"pkg/snapshot":            {"pkg/snapshot/create", "pkg/snapshot/gc", "pkg/snapshot/snapstore", "pkg/snapshot/trial", "pkg/volume", "pkg/volume/check"},
	"pkg/snapshot/merkle":     {"pkg/snapshot/fact"},                                                                            // the example of the document
	"pkg/snapshot/gc":         {"pkg/snapshot/commit", "pkg/snapshot/internal/draw"},                                            // the other side of the protocol
	"cmd/driver":              {"pkg/mounter/workerstore", "pkg/snapshot/format", "pkg/snapshot/stored", "pkg/snapshot/verify"}, // the node plugin's side of a snapshot
	"pkg/csi":                 {"pkg/backend/local"},
	"pkg/mountserver":         {"pkg/mountserver/mounts"},
	"pkg/nodeagent":           {"pkg/mounter/volumectl"},
	"pkg/volume":              {"pkg/volume/check", "pkg/volume/pinned"},
	"pkg/volume/check":        {"pkg/volume"}, // to have volumes; the package itself never imports it
	"pkg/volume/pinned":       {"pkg/volume", "pkg/volume/check", "pkg/volume/namehash"},
	"pkg/mounter/handover":    {"pkg/volume"},
	"pkg/snapshot/trial":      {"pkg/snapshot/reading", "pkg/snapshot/snapstore"},
	"pkg/mounter/workerstore": {"pkg/mounter/worker", "pkg/snapshot/commit"},
}

// TestMountServerIsSmall: what serves a volume needs no Kubernetes, no cloud and no gRPC.
func TestMountServerIsSmall(t *testing.T) {
	below := map[string]bool{}
	descend(below, []string{"pkg/mountserver"})
	if !below["pkg/volume"] {
		t.Fatal("pkg/mountserver is not in the map")
	}
	ctx := build.Default
	ctx.UseAllFiles = true
	for name := range below {
		pkg, err := ctx.ImportDir(filepath.Join("..", name), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range pkg.Imports {
			for _, not := range []string{"k8s.io/", "sigs.k8s.io/", "github.com/aws/", "google.golang.org/", "github.com/container-storage-interface/"} {
				if strings.HasPrefix(path, not) {
					t.Errorf("%s, which a mount server consists of, imports %s", name, path)
				}
			}
		}
	}
}

func isTestHelper(name string) bool { return strings.HasSuffix(name, "test") }

// TestMapHasNoCycle keeps the map itself a map of layers.
func TestMapHasNoCycle(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(allowed)) {
		below := map[string]bool{}
		descend(below, allowed[name])
		if below[name] {
			t.Errorf("%s stands above itself", name)
		}
		for p := range below {
			if _, ok := allowed[p]; !ok {
				t.Errorf("%s may import %s, which is no package", name, p)
			}
		}
	}
}
