package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/operator"
)

// mostListed is the maximum number of volumes that the check lists.
const mostListed = 20

// checkUninstallCommand is the command that the chart's pre-delete hook runs.
func checkUninstallCommand() *cobra.Command {
	return uninstallCommand("check-uninstall", "Fails while volumes are in use, unless the user has confirmed that; helm uninstall runs this command first", checkUninstall)
}

// noteUninstallCommand is the command that the chart's post-delete hook runs.
func noteUninstallCommand() *cobra.Command {
	return uninstallCommand("note-uninstall", "Records in volumes in use that nobody watches them any more; helm uninstall runs this command last", noteUninstall)
}

func uninstallCommand(use, short string, run func(ctx context.Context, c client.Client, namespace string, out io.Writer) error) *cobra.Command {
	namespace := ""
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if namespace == "" {
				return errors.New("--namespace is missing")
			}
			config, err := apiConfig()
			if err != nil {
				return err
			}
			scheme, err := operator.Scheme()
			if err != nil {
				return err
			}
			api, err := client.New(config, client.Options{Scheme: scheme})
			if err != nil {
				return err
			}
			return run(c.Context(), api, namespace, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&namespace, "namespace", os.Getenv("NAMESPACE"), "namespace of the release (default $NAMESPACE)")
	return c
}

func checkUninstall(ctx context.Context, c client.Client, namespace string, out io.Writer) error {
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
	list := strings.Join(uses, "\n  ") + more
	confirmed, err := operator.IsUninstallConfirmed(ctx, c, namespace)
	if err != nil {
		return err
	}
	if confirmed {
		_, err := fmt.Fprintf(out, "Volumes are in use, but the uninstallation was confirmed:\n  %s\n", list)
		return err
	}
	return fmt.Errorf("volumes are in use, so Sealvol was not uninstalled. Without Sealvol, their pods get I/O errors (\"Transport endpoint is not connected\") and cannot terminate:\n"+
		"  %s\nTo uninstall: delete these pods, then run helm uninstall again. To keep Sealvol: run helm rollback to the current revision (see helm history); until then, helm refuses upgrades. "+
		"To uninstall anyway: run kubectl annotate namespace %s %s=%s, then helm uninstall again",
		list, namespace, operator.UninstallAnnotation, operator.UninstallConfirmed)
}

func noteUninstall(ctx context.Context, c client.Client, namespace string, out io.Writer) error {
	// helm template prints hooks, too, and somebody may apply them as ordinary objects.
	installed, err := operator.IsInstalled(ctx, c)
	if err != nil {
		return err
	}
	if installed {
		_, err := fmt.Fprintf(out, "Sealvol is installed (the CSIDriver %s exists), so nothing was recorded.\n", operator.DriverName)
		return err
	}
	count, err := operator.NoteUninstall(ctx, c)
	if err = errors.Join(err, operator.DropUninstallConfirmation(ctx, c, namespace)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d volumes were in use.\n", count)
	return err
}
