package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// errLater is the answer to what the interface names and this version lacks.
func errLater(what string) error {
	return &codeError{err: fmt.Errorf("%s is not in this version", what), code: exitUsage, hint: "a later version of sealvol brings it"}
}

func laterCommand(name string) *cobra.Command {
	return &cobra.Command{Use: name, Hidden: true, DisableFlagParsing: true, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, _ []string) error { return errLater(c.CommandPath()) }}
}

// laterFlag does so for a flag.
func laterFlag(flags *pflag.FlagSet, name string) {
	flags.String(name, "", "")
	if err := flags.MarkHidden(name); err != nil {
		panic(err) // it was defined in the line before
	}
}

// checkLater refuses flags of later versions.
func checkLater(flags *pflag.FlagSet, names ...string) error {
	for _, n := range names {
		if flags.Changed(n) {
			return errLater("--" + n)
		}
	}
	return nil
}
