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
		Use: "probe", Short: "Checks that a driver or a mounter is alive; for a pod's probes", Args: cobra.NoArgs,
		Long: `Checks that a driver or a mounter is alive, and fails if it does not answer in time.

A driver that answers is alive even if its mounter is not, because restarting the
driver would not help. With --ready, the driver must be able to mount volumes. With
--mounter-dir, the mounter is checked. Be careful with a liveness probe of the mounter:
when its container is restarted, all its mount servers end.`,
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
	c.Flags().StringVar(&mounterDir, "mounter-dir", "", "check the mounter with this state directory instead")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for an answer")
	c.Flags().BoolVar(&ready, "ready", false, "also fail if the driver is not ready because its mounter does not answer")
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
		return errors.New("probe: the driver is not ready: its mounter does not answer")
	}
	return nil
}

// probeMounter counts a mounter that closes the connection as alive: it is busy with other
// connections.
func probeMounter(ctx context.Context, dir string) error {
	err := mounter.Client{Socket: mounter.SocketPath(dir)}.Ping(ctx)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}
