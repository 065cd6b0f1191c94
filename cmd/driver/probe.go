package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/sealvol/sealvol/pkg/csi"
	"github.com/sealvol/sealvol/pkg/mounter"
)

func probeCommand() *cobra.Command {
	var endpoint, mounterDir string
	var timeout time.Duration
	var ready bool
	c := &cobra.Command{
		Use: "probe", Short: "Asks a driver, or a mounter, whether it is alive; for a pod's probes", Args: cobra.NoArgs,
		Long: `Asks a driver, or a mounter, whether it is alive, and fails if it does not answer in time.

A driver that answers is alive also while its mounter is not: to end it would help
nobody. With --ready it must be able to mount volumes. With --mounter-dir the mounter
is asked; think twice before you let its end follow from that: mount servers end
with its container.`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			if mounterDir != "" {
				return probeMounter(ctx, mounterDir)
			}
			return probeDriver(ctx, endpoint, ready)
		},
	}
	endpointFlag(c, &endpoint)
	c.Flags().StringVar(&mounterDir, "mounter-dir", "", "ask the mounter with this state directory instead")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	c.Flags().BoolVar(&ready, "ready", false, "also fail if the driver is not ready: its mounter does not answer")
	return c
}

func probeDriver(ctx context.Context, endpoint string, wantReady bool) error {
	path, err := csi.SocketPath(endpoint)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	r, err := spec.NewIdentityClient(conn).Probe(ctx, &spec.ProbeRequest{})
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if wantReady && r.GetReady() != nil && !r.GetReady().GetValue() {
		return errors.New("probe: the driver is not ready")
	}
	return nil
}

// probeMounter takes a mounter that hangs up for one that is alive, with all hands full.
func probeMounter(ctx context.Context, dir string) error {
	err := mounter.Client{Socket: mounter.SocketPath(dir)}.Ping(ctx)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}
