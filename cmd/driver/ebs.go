package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealvol/sealvol/pkg/backend/ebs"
)

// tuneEBS is set by tests to wait shorter than EC2 requires.
var tuneEBS func(*ebs.Options)

// ebsFlags describe the ebs backend; see docs/ebs.md.
type ebsFlags struct {
	command    *cobra.Command
	opt        ebs.Options
	formatTags bool
}

func (e *ebsFlags) add(c *cobra.Command) {
	e.command = c
	f := c.Flags()
	f.StringVar(&e.opt.Cluster, "cluster-id", "", "ebs: id of this cluster, which owns the volumes; no other cluster in the account may have it")
	f.StringVar(&e.opt.Region, "aws-region", "", "ebs: AWS region; default: that of the SDK's environment or of this instance")
	f.StringVar(&e.opt.Endpoint, "aws-ec2-endpoint", "", "ebs: URL of EC2; default: that of the region")
	f.StringVar(&e.opt.MetadataEndpoint, "aws-metadata-endpoint", "", "ebs: URL of the instance metadata service; default: the usual link-local address")
	f.StringSliceVar(&e.opt.Metadata, "metadata-sources", []string{ebs.SourceIMDS, ebs.SourceKubernetes}, "ebs: sources that tell which instance this is, in order of preference: imds, kubernetes (the Node object)")
	f.StringVar(&e.opt.Zone, "zone", "", "ebs: zone of volumes without a requested zone, and of this node if neither the metadata service nor Kubernetes knows it")
	f.StringToStringVar(&e.opt.Tags, "volume-tags", nil, "ebs: additional tags of all volumes and snapshots, as key=value,...")
	f.Int64Var(&e.opt.ReservedVolumes, "reserved-volumes", 0, "ebs: number of attachments of this node that are not available to the driver, including the root volume; default: those that exist when the driver starts")
	f.BoolVar(&e.formatTags, "format-tags", true, "ebs: without --node-agent, record in tags that a volume was formatted; nodes need ec2:DescribeVolumes and ec2:CreateTags for this. If false, the driver formats a device that was wiped")
	f.StringVar(&e.opt.Sys, "sys-dir", "/sys", "ebs: directory of sysfs; only changed to test with a simulated EC2 (make ec2)")
	f.StringVar(&e.opt.Model, "device-model", "", "ebs: model name of the volumes' devices; others are refused; default: that of EBS devices")
	f.StringVar(&e.opt.Links, "links-dir", "/dev", "ebs: directory in which udev creates links")
}

func (e *ebsFlags) open(ctx context.Context, b *backendFlags, nodeOnly bool) (openBackend, error) {
	if e.opt.Cluster == "" && !nodeOnly {
		return nil, errors.New("--backend ebs needs --cluster-id")
	}
	o := e.opt
	o.MaxVolumes = b.maxVolumes
	if e.command.Flags().Changed("node-id") {
		o.Instance = b.node
	}
	if name := os.Getenv("NODE_NAME"); name != "" && os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		k := kubeNode{name: name, dir: serviceAccountDir, server: "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))}
		o.NodeObject = k.get
	}
	if tuneEBS != nil {
		tuneEBS(&o)
	}
	return ebs.Open(ctx, o)
}

// serviceAccountDir is where Kubernetes mounts a pod's token.
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// kubeNode reads one Node object. The driver needs nothing else from Kubernetes here, and this only
// if the metadata service cannot be reached.
type kubeNode struct{ name, dir, server string }

func (k kubeNode) get(ctx context.Context) (ebs.NodeObject, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	token, err := os.ReadFile(filepath.Join(k.dir, "token"))
	if err != nil {
		return ebs.NodeObject{}, err
	}
	ca, err := os.ReadFile(filepath.Join(k.dir, "ca.crt"))
	if err != nil {
		return ebs.NodeObject{}, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return ebs.NodeObject{}, errors.New("the service account's ca.crt contains no certificate")
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, k.server+"/api/v1/nodes/"+url.PathEscape(k.name), http.NoBody)
	if err != nil {
		return ebs.NodeObject{}, err
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := (&http.Client{Transport: tr}).Do(r)
	if err != nil {
		return ebs.NodeObject{}, fmt.Errorf("read the Node object: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return ebs.NodeObject{}, fmt.Errorf("read the Node object: %w", err)
	}
	return parseNode(resp.StatusCode, body)
}

func parseNode(code int, body []byte) (ebs.NodeObject, error) {
	if code != http.StatusOK {
		return ebs.NodeObject{}, fmt.Errorf("read the Node object: HTTP status %d", code)
	}
	var n struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
		Spec struct {
			ProviderID string `json:"providerID"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(body, &n); err != nil {
		return ebs.NodeObject{}, fmt.Errorf("read the Node object: %w", err)
	}
	return ebs.NodeObject{ProviderID: n.Spec.ProviderID, Labels: n.Metadata.Labels}, nil
}
