// Command operator creates and delivers the keys of Sealvol's volumes: it reconciles VolumeKeys,
// SealedVolumes and their Secrets. If several run, one of them leads. It is configured by flags.
// Like kubectl, it finds the API server through KUBECONFIG or the pod's service account.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/operator"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := command(os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

type options struct {
	namespace, metrics, probes string
	elect, snapshots           bool
	attachments                bool
	workers, maxKeys           int
	logLevel, logFormat        string
}

func command(stderr io.Writer) *cobra.Command {
	var o options
	c := &cobra.Command{
		Use: "operator", Short: "Creates and delivers the keys of Sealvol's volumes", Version: version, Args: cobra.NoArgs,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(crypto.HardenProcess(), o.setLog(stderr)); err != nil {
				return err
			}
			return run(c.Context(), o)
		},
	}
	c.AddCommand(checkUninstallCommand(), noteUninstallCommand(), checkVolumeCommand())
	f := c.Flags()
	f.StringVar(&o.namespace, "namespace", os.Getenv("NAMESPACE"), "namespace of key Secrets and delivery Secrets (default $NAMESPACE)")
	f.BoolVar(&o.elect, "leader-elect", false, "use a Lease in the namespace, so that only one of several operators is active")
	f.BoolVar(&o.snapshots, "snapshots", true, "the cluster has the API snapshot.storage.k8s.io: keep keys while snapshots need them")
	f.BoolVar(&o.attachments, "attachments", false, "volumes move between nodes, as with the ebs backend: take the node of a volume from its VolumeAttachment, not from its node affinity")
	f.StringVar(&o.metrics, "metrics-address", "0", "address on which to serve metrics; 0 disables them")
	f.StringVar(&o.probes, "probe-address", "0", "address on which to serve /healthz and /readyz; 0 disables them")
	f.IntVar(&o.maxKeys, "max-keys-per-namespace", 3000, "maximum number of key Secrets for the VolumeKeys of one namespace; 0 means no limit")
	f.IntVar(&o.workers, "workers", 4, "number of concurrent reconciliations of each controller")
	f.StringVar(&o.logFormat, "log-format", "json", "json or text")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	return c
}

// setLog makes slog, controller-runtime and client-go write to the same log.
func (o *options) setLog(w io.Writer) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	h := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "json":
		slog.SetDefault(slog.New(slog.NewJSONHandler(w, h)))
	case "text":
		slog.SetDefault(slog.New(slog.NewTextHandler(w, h)))
	default:
		return fmt.Errorf("--log-format %q: must be json or text", o.logFormat)
	}
	l := logr.FromSlogHandler(slog.Default().Handler())
	ctrl.SetLogger(l)
	klog.SetLogger(l)
	return nil
}

// stopTimeout is how long running reconciliations may take to finish. It is shorter than the usual
// termination grace period of a pod, 30 s.
const stopTimeout = 20 * time.Second

// apiConfig returns the access to the API server. Without limits of our own, the client library
// would send 20 requests per second. When a cluster starts, or when Sealvol is uninstalled, there
// are many volumes at once. The API server protects itself with priority and fairness.
func apiConfig() (*rest.Config, error) {
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, err
	}
	rest.AddUserAgent(config, "sealvol-operator/"+version)
	config.QPS, config.Burst = 100, 200
	return config, nil
}

func run(ctx context.Context, o options) error {
	if o.namespace == "" {
		return errors.New("--namespace is missing")
	}
	if o.maxKeys < 0 {
		return errors.New("--max-keys-per-namespace must not be negative; 0 means no limit")
	}
	config, err := apiConfig()
	if err != nil {
		return err
	}
	scheme, err := operator.Scheme()
	if err != nil {
		return err
	}
	stop := stopTimeout
	m, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Cache: operator.Cache(o.namespace), GracefulShutdownTimeout: &stop,
		LeaderElection: o.elect, LeaderElectionID: "sealvol-operator", LeaderElectionNamespace: o.namespace,
		LeaderElectionReleaseOnCancel: true, // the process does nothing after Start returns
		HealthProbeBindAddress:        o.probes, Metrics: server.Options{BindAddress: o.metrics},
	})
	if err != nil {
		return err
	}
	if err := operator.Add(ctx, m, operator.Options{Namespace: o.namespace, Snapshots: o.snapshots, Attachments: o.attachments, Workers: o.workers, MaxKeys: o.maxKeys}); err != nil {
		return err
	}
	synced := func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if !m.GetCache().WaitForCacheSync(ctx) {
			return errors.New("the cache is not synced with the API server yet")
		}
		return nil
	}
	if err := errors.Join(m.AddHealthzCheck("ping", healthz.Ping), m.AddReadyzCheck("cache", synced)); err != nil {
		return err
	}
	return m.Start(ctx)
}
