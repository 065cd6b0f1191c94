package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run(os.Args)) }

// run executes the program and returns its exit code.
func run(args []string) int {
	root := rootCommand(args[0])
	root.SetArgs(args[1:])
	c, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if !errors.Is(err, errReported) {
		name := displayName(args[0])
		if c != nil && c != root {
			name = c.CommandPath()
		}
		printError(os.Stderr, name, err, code)
	}
	return code
}

func printError(w io.Writer, name string, err error, code int) {
	say(w, "%s: %v\n", name, err)
	switch h := hint(err); {
	case h != "":
		say(w, "  %s\n", strings.ReplaceAll(h, "`sealvol ", "`"+displayName(os.Args[0])+" "))
	case code == exitUsage:
		say(w, "  for usage, run `%s --help`\n", name)
	}
}

// displayName is the name that the user typed. kubectl runs plugins by another name.
func displayName(arg0 string) string {
	if strings.HasPrefix(filepath.Base(arg0), "kubectl-sealvol") {
		return "kubectl sealvol"
	}
	return "sealvol"
}

func rootCommand(arg0 string) *cobra.Command {
	root := &cobra.Command{
		Use:     "sealvol",
		Version: version,
		Short:   "Create, mount, check and inspect encrypted volumes",
		Long: `Sealvol keeps encrypted file systems on devices and in image files. An attacker who has
the device learns neither names nor contents, and cannot change anything unnoticed.

A key file holds 32 random bytes, raw or as 64 hexadecimal digits. If you lose all keys
of a volume, its data is lost.

Exit codes: 0 success, 1 failure, 16 wrong usage. fsck and scrub have additional ones.`,
		Example: `  sealvol key generate vol.key
  sealvol mkfs --key-file vol.key --size 10GiB vol.img
  sealvol mount --key-file vol.key vol.img /mnt
  sealvol umount /mnt`,
		Annotations:       map[string]string{cobra.CommandDisplayNameAnnotation: displayName(arg0)},
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(fmt.Errorf("unknown command %q", args[0]))
			}
			return c.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return crypto.HardenProcess() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err) })
	root.AddCommand(mkfsCommand(), mountCommand(), umountCommand(), fsckCommand(), infoCommand(),
		lsCommand(), catCommand(), cpCommand(), growCommand(), convertCommand(), keyCommand(), snapshotCommand(), selfencCommand(),
		scrubCommand(), defragCommand(), trimCommand(), freezeCommand(), thawCommand(), logLevelCommand())
	return root
}

// args checks the number of arguments. max < 0 means no limit.
func args(min, max int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, a []string) error {
		if len(a) < min || max >= 0 && len(a) > max {
			return usageError(fmt.Errorf("expected %s, got %d arguments", what, len(a)))
		}
		return nil
	}
}
