// Command driver is Sealvol's CSI driver. Its first argument selects its role:
//
//	all         controller and node in one process; starts a mounter that survives it
//	controller  the CSI controller service
//	node        the CSI node service, with a mounter that runs elsewhere or that it starts
//	mounter     starts and supervises mount servers
//	mount       serves one volume; started by the mounter
//	snapshot-worker  stores a snapshot of one volume; started by the mounter
//	loop        binds loop devices of raw block volumes; started by the mounter
//	writeback   makes the kernel write back mapped files of a volume; started by the node service
//	probe       checks that a driver or a mounter is alive
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
}

// run is main without the parts that concern the process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use: "driver", Short: "CSI driver of Sealvol: encrypted volumes for Kubernetes",
		Version: version, SilenceErrors: true, SilenceUsage: true,
		Long: `CSI driver of Sealvol: encrypted volumes for Kubernetes.

Each role is a process. With the local backend, a cluster runs "all --self-attach
--external-mounter" and "mounter" on every node, and "controller --backend=none" beside
csi-resizer. "all" alone is for experiments and single machines. The driver gets
keys only as node stage and node publish secrets.`,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	var log logFlags
	log.add(root)
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		return errors.Join(crypto.HardenProcess(), log.set(stderr)) // keys pass through every role except the controller
	}
	root.AddCommand(allCommand(), controllerCommand(), nodeCommand(), mounterCommand(), mountCommand(), snapshotWorkerCommand(), loopCommand(), writeBackCommand(), probeCommand())
	return root.ExecuteContext(ctx)
}

type logFlags struct{ format, level string }

func (l *logFlags) add(c *cobra.Command) {
	c.PersistentFlags().StringVar(&l.format, "log-format", "json", "log format: json or text")
	c.PersistentFlags().StringVar(&l.level, "log-level", "info", "log level: debug, info, warn or error")
}

// logLevel is the level of this process's log. A mount server changes it on request of its control
// socket.
var logLevel slog.LevelVar

// logArgs are the log flags for processes that this one starts.
var logArgs []string

func (l *logFlags) set(w io.Writer) error {
	logArgs = []string{"--log-format", l.format, "--log-level", l.level}
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	logLevel.Set(level)
	o := &slog.HandlerOptions{Level: &logLevel}
	switch l.format {
	case "json":
		slog.SetDefault(slog.New(requestid.Handler(slog.NewJSONHandler(w, o))))
	case "text":
		slog.SetDefault(slog.New(requestid.Handler(slog.NewTextHandler(w, o))))
	default:
		return fmt.Errorf("--log-format %q: must be json or text", l.format)
	}
	return nil
}
