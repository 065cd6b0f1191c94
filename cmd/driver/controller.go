package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/csi"
)

func controllerCommand() *cobra.Command {
	var endpoint, mounterDir string
	var a agentFlags
	var b backendFlags
	c := &cobra.Command{
		Use: "controller", Short: "The CSI controller service: creates, attaches, grows and deletes volumes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if b.kind == "none" {
				return serve(c.Context(), csi.Options{Endpoint: endpoint, Announce: true})
			}
			back, err := b.open(c.Context(), false, mounterDir)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, back.Close()) }()
			return a.note(c.Context(), csi.Options{Endpoint: endpoint, Controller: back})
		},
	}
	endpointFlag(c, &endpoint)
	c.Flags().StringVar(&mounterDir, "mounter-dir", "", "state directory of the mounter on this node; without it, mounted volumes cannot be snapshotted or cloned")
	b.add(c)
	a.addNote(c)
	c.Flags().Lookup("backend").Usage += `; or none, if every node runs "all --self-attach": touch no volume, and only tell csi-resizer the capabilities of those nodes`
	return c
}
