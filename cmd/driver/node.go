package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/csi"
)

func nodeCommand() *cobra.Command {
	var endpoint string
	var b backendFlags
	var m mounterFlags
	var a agentFlags
	c := &cobra.Command{
		Use: "node", Short: "The CSI node service: stages and publishes volumes; stopping it does not affect mounts", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			back, err := b.open(c.Context(), true, "")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, back.Close()) }()
			client, err := m.mounter(c.Context())
			if err != nil {
				return err
			}
			defer m.quit(client)
			return a.serve(c.Context(), csi.Options{Endpoint: endpoint, Node: back, Mounter: client, KubeletDir: m.kubeletDir, Formats: b.formats(back, a.enabled)}, &b, m.stateDir)
		},
	}
	endpointFlag(c, &endpoint)
	b.add(c)
	m.add(c)
	a.add(c)
	return c
}
