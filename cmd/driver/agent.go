package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sealvol/sealvol/pkg/csi"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/nodeagent"
)

// agentFlags say whether this node reports to the operator.
type agentFlags struct {
	enabled    bool
	kubeconfig string
}

func (f *agentFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.enabled, "node-agent", false, "report on volumes in their SealedVolumes, keep their anchors there, and refuse devices that are older")
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "how the node agent reaches the API server; by default by the pod's service account")
}

// serve serves opt, beside a node agent if there is to be one. Either's end is the end of both.
func (f *agentFlags) serve(ctx context.Context, opt csi.Options, node, stateDir string) error {
	if !f.enabled {
		return serve(ctx, opt)
	}
	agent, err := f.agent(opt.Mounter, node, stateDir)
	if err != nil {
		return fmt.Errorf("node agent: %w", err)
	}
	opt.Agent = agent
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- agent.Run(ctx)
	}()
	err = serve(ctx, opt)
	cancel()
	return errors.Join(err, <-ended)
}

func (f *agentFlags) agent(m csi.Mounter, node, stateDir string) (*nodeagent.Agent, error) {
	l := logr.FromSlogHandler(slog.Default().Handler())
	klog.SetLogger(l)
	ctrllog.SetLogger(l)
	lister, ok := m.(nodeagent.Mounter)
	if !ok {
		return nil, errors.New("the mounter lists no volumes")
	}
	// Without a file this is the pod's service account.
	config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return nil, err
	}
	rest.AddUserAgent(config, "sealvol-node/"+version)
	return nodeagent.New(nodeagent.Options{Node: node, Config: config, Mounter: lister,
		Control: func(volume string) control.Client { return control.Client{Path: mounter.ControlPath(stateDir, volume)} }})
}
