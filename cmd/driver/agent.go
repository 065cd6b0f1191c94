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

// agentFlags say whether and how this node reports to the operator.
type agentFlags struct {
	enabled    bool
	contents   bool
	kubeconfig string
}

func (f *agentFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.enabled, "node-agent", false, "report the health, usage and anchors of volumes in their SealedVolumes, and refuse devices that are older than the anchor")
	c.Flags().BoolVar(&f.contents, "claim-snapshots", false, "with --node-agent: claim VolumeSnapshotContents that were created by hand, if their snapshot is on this node")
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file of the node agent; default: the pod's service account")
}

// addNote adds the agent's flags of the controller, which records the source volumes of snapshots
// for backends whose snapshots are not on a node.
func (f *agentFlags) addNote(c *cobra.Command) {
	c.Flags().BoolVar(&f.contents, "note-snapshots", false, "record the source volume in VolumeSnapshotContents that were created by hand; the key of that volume is needed as long as they exist")
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file for --note-snapshots; default: the pod's service account")
}

// note serves opt, and records the source volumes of snapshots if the flag is set.
func (f *agentFlags) note(ctx context.Context, opt csi.Options) error {
	s, ok := opt.Controller.(backend.Snapshotter)
	if !f.contents || !ok {
		return serve(ctx, opt)
	}
	config, err := f.config()
	if err != nil {
		return fmt.Errorf("record the sources of snapshots: %w", err)
	}
	return together(ctx, []func(context.Context) error{
		func(ctx context.Context) error { return serve(ctx, opt) },
		nodeagent.Contents{Driver: csi.DriverName, Config: config, Source: source(s)}.Run})
}

// serve serves opt, and runs a node agent beside it if the flag is set. If one ends, both end.
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

// together runs all functions until one returns, and then waits for the others.
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

// source returns a function that finds the source volume of a snapshot; "" if the backend does not
// have the snapshot.
func source(s backend.Snapshotter) func(context.Context, string) (string, error) {
	return func(ctx context.Context, handle string) (string, error) {
		o, err := s.GetSnapshot(ctx, handle)
		if errors.Is(err, backend.ErrSnapshotNotFound) {
			return "", nil
		}
		return o.Volume, err
	}
}

// nodeName returns the name of this node's Node object.
func (b *backendFlags) nodeName() (string, error) {
	if b.kind != "ebs" {
		return b.node, nil
	}
	name := os.Getenv("NODE_NAME") // with ebs, the node id is the id of an instance
	if name == "" {
		return "", errors.New("the environment variable NODE_NAME must be set to the name of this node's Node object")
	}
	return name, nil
}

func (f *agentFlags) config() (*rest.Config, error) {
	l := logr.FromSlogHandler(slog.Default().Handler())
	klog.SetLogger(l)
	ctrllog.SetLogger(l)
	// Without a file, this is the pod's service account.
	config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err == nil && f.kubeconfig == "" {
		config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil } // HTTPS_PROXY is only for EC2
	}
	if err == nil {
		rest.AddUserAgent(config, "sealvol-node/"+version)
	}
	return config, err
}

func (f *agentFlags) agent(config *rest.Config, m csi.Mounter, node, stateDir string, attachments bool) (*nodeagent.Agent, error) {
	lister, ok := m.(nodeagent.Mounter)
	if !ok {
		return nil, errors.New("the mounter cannot list volumes")
	}
	return nodeagent.New(nodeagent.Options{Node: node, Attachments: attachments, Config: config, Mounter: lister,
		Control: func(volume string) control.Client { return control.Client{Path: mounter.ControlPath(stateDir, volume)} }})
}
