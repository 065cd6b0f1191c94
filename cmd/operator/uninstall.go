package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
	return uninstallCommand("check-uninstall", "Fails while volumes are in use, unless that was confirmed; helm uninstall runs it first", checkUninstall)
}

// noteUninstallCommand is what the chart's post-delete hook runs.
func noteUninstallCommand() *cobra.Command {
	return uninstallCommand("note-uninstall", "Says of volumes in use that nobody watches them any more; helm uninstall runs it last", noteUninstall)
}

func uninstallCommand(use, short string, run func(ctx context.Context, c client.Client, namespace string, out io.Writer) error) *cobra.Command {
	namespace := ""
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if namespace == "" {
				return errors.New("--namespace is missing")
			}
			config, err := ctrl.GetConfig()
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
	c.Flags().StringVar(&namespace, "namespace", os.Getenv("NAMESPACE"), "namespace of the release; by default $NAMESPACE")
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
		_, err := fmt.Fprintf(out, "Volumes are in use, and uninstalling was confirmed all the same:\n  %s\n", list)
		return err
	}
	return fmt.Errorf("volumes are in use, so Sealvol stays installed: without it their pods get I/O errors (\"Transport endpoint is not connected\") and cannot be ended:\n"+
		"  %s\nEnd these pods first, and uninstall again. To keep Sealvol: helm rollback to the present revision (helm history), since helm takes the release for half uninstalled and refuses upgrades. "+
		"To uninstall all the same: kubectl annotate namespace %s %s=%s, and uninstall again",
		list, namespace, operator.UninstallAnnotation, operator.UninstallConfirmed)
}

func noteUninstall(ctx context.Context, c client.Client, namespace string, out io.Writer) error {
	count, err := operator.NoteUninstall(ctx, c)
	if err = errors.Join(err, operator.DropUninstallConfirmation(ctx, c, namespace)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d volumes were in use.\n", count)
	return err
}
