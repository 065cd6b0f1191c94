package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sealvol/sealvol/pkg/backend"
	"github.com/sealvol/sealvol/pkg/csi"
	"github.com/sealvol/sealvol/pkg/mounter"
	"github.com/sealvol/sealvol/pkg/mounter/control"
	"github.com/sealvol/sealvol/pkg/nodeagent"
)

// agentFlags say whether this node reports to the operator.
type agentFlags struct {
	enabled    bool
	contents   bool
	kubeconfig string
}

func (f *agentFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.enabled, "node-agent", false, "report on volumes in their SealedVolumes, keep their anchors there, and refuse devices that are older")
	c.Flags().BoolVar(&f.contents, "claim-snapshots", false, "with --node-agent: claim VolumeSnapshotContents that were made by hand, if their snapshot is on this node")
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "how the node agent reaches the API server; by default by the pod's service account")
}

// addNote adds what the controller has of the agent: it notes what snapshots are of, for backends whose snapshots lie on no node.
func (f *agentFlags) addNote(c *cobra.Command) {
	c.Flags().BoolVar(&f.contents, "note-snapshots", false, "note in VolumeSnapshotContents that were made by hand which volume they are of: its key is needed as long as they are there")
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "how to reach the API server for that; by default by the pod's service account")
}

// note serves opt, and notes what snapshots are of if that is asked for.
func (f *agentFlags) note(ctx context.Context, opt csi.Options) error {
	s, ok := opt.Controller.(backend.Snapshotter)
	if !f.contents || !ok {
		return serve(ctx, opt)
	}
	config, err := f.config()
	if err != nil {
		return fmt.Errorf("note snapshots: %w", err)
	}
	return together(ctx, []func(context.Context) error{
		func(ctx context.Context) error { return serve(ctx, opt) },
		nodeagent.Contents{Driver: csi.DriverName, Config: config, Source: source(s)}.Run})
}

// serve serves opt, beside a node agent if there is to be one. The end of one is the end of all.
func (f *agentFlags) serve(ctx context.Context, opt csi.Options, b *backendFlags, stateDir string) error {
	if !f.enabled {
		return serve(ctx, opt)
	}
	config, err := f.config()
	if err != nil {
		return fmt.Errorf("node agent: %w", err)
	}
	node, err := b.nodeName()
	if err != nil {
		return fmt.Errorf("node agent: %w", err)
	}
	agent, err := f.agent(config, opt.Mounter, node, stateDir, b.kind == "ebs")
	if err != nil {
		return fmt.Errorf("node agent: %w", err)
	}
	opt.Agent, opt.Formats = agent, append(opt.Formats, agent)
	var runs []func(context.Context) error
	runs = append(runs, func(ctx context.Context) error { return serve(ctx, opt) }, agent.Run)
	if s, ok := opt.Controller.(backend.Snapshotter); f.contents && ok {
		runs = append(runs, nodeagent.Contents{Node: node, Driver: csi.DriverName, Config: config, Source: source(s)}.Run)
	}
	return together(ctx, runs)
}

// together runs all until one ends, and returns when they all have.
func together(ctx context.Context, runs []func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error)
	for _, run := range runs {
		go func() { ended <- run(ctx) }()
	}
	var errs []error
	for range runs {
		errs = append(errs, <-ended)
		cancel()
	}
	return errors.Join(errs...)
}

// source finds the volume that a snapshot of a backend is of; "" if it has no such snapshot.
func source(s backend.Snapshotter) func(context.Context, string) (string, error) {
	return func(ctx context.Context, handle string) (string, error) {
		o, err := s.GetSnapshot(ctx, handle)
		if errors.Is(err, backend.ErrSnapshotNotFound) {
			return "", nil
		}
		return o.Volume, err
	}
}

// nodeName is the name of this node's Node object.
func (b *backendFlags) nodeName() (string, error) {
	if b.kind != "ebs" {
		return b.node, nil
	}
	name := os.Getenv("NODE_NAME") // the id is that of an instance
	if name == "" {
		return "", errors.New("NODE_NAME must be the name of this node's Node object")
	}
	return name, nil
}

func (f *agentFlags) config() (*rest.Config, error) {
	l := logr.FromSlogHandler(slog.Default().Handler())
	klog.SetLogger(l)
	ctrllog.SetLogger(l)
	// Without a file this is the pod's service account.
	config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err == nil && f.kubeconfig == "" {
		config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil } // HTTPS_PROXY is for EC2
	}
	if err == nil {
		rest.AddUserAgent(config, "sealvol-node/"+version)
	}
	return config, err
}

func (f *agentFlags) agent(config *rest.Config, m csi.Mounter, node, stateDir string, attachments bool) (*nodeagent.Agent, error) {
	lister, ok := m.(nodeagent.Mounter)
	if !ok {
		return nil, errors.New("the mounter lists no volumes")
	}
	return nodeagent.New(nodeagent.Options{Node: node, Attachments: attachments, Config: config, Mounter: lister,
		Control: func(volume string) control.Client { return control.Client{Path: mounter.ControlPath(stateDir, volume)} }})
}
