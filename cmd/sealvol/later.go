package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// errLater is the error of commands and flags that are reserved for a later version.
func errLater(what string) error {
	return &codeError{err: fmt.Errorf("%s is not in this version", what), code: exitUsage, hint: "it is reserved for a later version of sealvol"}
}

func laterCommand(name string) *cobra.Command {
	return &cobra.Command{Use: name, Hidden: true, DisableFlagParsing: true, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, _ []string) error { return errLater(c.CommandPath()) }}
}
