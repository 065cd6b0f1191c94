package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// errLater is the error of commands and flags that are reserved for a later version.
func errLater(what string) error {
	return &codeError{err: fmt.Errorf("%s is not in this version", what), code: exitUsage, hint: "it is reserved for a later version of sealvol"}
}

func laterCommand(name string) *cobra.Command {
	return &cobra.Command{Use: name, Hidden: true, DisableFlagParsing: true, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, _ []string) error { return errLater(c.CommandPath()) }}
}

// laterFlag adds a hidden flag that is reserved for a later version.
func laterFlag(flags *pflag.FlagSet, name string) {
	flags.String(name, "", "")
	if err := flags.MarkHidden(name); err != nil {
		panic(err) // cannot happen: it was defined in the line before
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
