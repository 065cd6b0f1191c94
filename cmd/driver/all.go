package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/csi"
)

func allCommand() *cobra.Command {
	var endpoint string
	var selfAttach bool
	var b backendFlags
	var m mounterFlags
	var a agentFlags
	c := &cobra.Command{
		Use: "all", Short: "Controller and node in one process; starts a mounter that survives it", Args: cobra.NoArgs,
		Example: "  driver all --endpoint unix:///run/sealvol/csi.sock --local-dir /srv/volumes --kubelet-dir /var/lib/kubelet",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			back, err := b.open(c.Context(), false, m.stateDir)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, back.Close()) }()
			client, err := m.mounter(c.Context())
			if err != nil {
				return err
			}
			defer m.quit(client)
			return a.serve(c.Context(), csi.Options{Endpoint: endpoint, Controller: back, Node: back, Mounter: client, SelfAttach: selfAttach, KubeletDir: m.kubeletDir, Formats: b.formats(back, a.enabled)}, &b, m.stateDir)
		},
	}
	endpointFlag(c, &endpoint)
	c.Flags().BoolVar(&selfAttach, "self-attach", false, "attach, detach and grow volumes within the calls of the node service, for a CSIDriver with attachRequired: false")
	b.add(c)
	m.add(c)
	a.add(c)
	return c
}
