package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/operator"
)

// mostListed is how many volumes the check names.
const mostListed = 20

// checkUninstallCommand is what the chart's pre-delete hook runs.
func checkUninstallCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check-uninstall", Short: "Fails while volumes are in use; helm uninstall runs it first", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return checkUninstall(c.Context(), c.OutOrStdout()) },
	}
}

func checkUninstall(ctx context.Context, out io.Writer) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	scheme, err := operator.Scheme()
	if err != nil {
		return err
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	uses, err := operator.InUse(ctx, c)
	if err != nil {
		return err
	}
	if len(uses) == 0 {
		_, err := fmt.Fprintln(out, "No volume is in use.")
		return err
	}
	more := ""
	if n := len(uses) - mostListed; n > 0 {
		more, uses = fmt.Sprintf("\n  and %d more", n), uses[:mostListed]
	}
	return fmt.Errorf("volumes are in use, so Sealvol stays installed: without it their pods get I/O errors (\"Transport endpoint is not connected\") and cannot be ended:\n"+
		"  %s%s\nEnd these pods first, and uninstall again. To keep Sealvol: helm rollback to the present revision (helm history), since helm takes the release for half uninstalled and refuses upgrades. To uninstall all the same: helm uninstall --no-hooks",
		strings.Join(uses, "\n  "), more)
}
