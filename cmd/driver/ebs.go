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

// tuneEBS is set by tests: waits shorter than EC2's.
var tuneEBS func(*ebs.Options)

// ebsFlags describe the ebs backend; docs/ebs.md.
type ebsFlags struct {
	command    *cobra.Command
	opt        ebs.Options
	formatTags bool
}

func (e *ebsFlags) add(c *cobra.Command) {
	e.command = c
	f := c.Flags()
	f.StringVar(&e.opt.Cluster, "cluster-id", "", "ebs: whose volumes these are: a name that no other cluster of the account has")
	f.StringVar(&e.opt.Region, "aws-region", "", "ebs: region; by default the SDK's environment, or that of this instance")
	f.StringVar(&e.opt.Endpoint, "aws-ec2-endpoint", "", "ebs: URL of EC2, by default the region's")
	f.StringVar(&e.opt.MetadataEndpoint, "aws-metadata-endpoint", "", "ebs: URL of the instance metadata service, by default the usual link-local address")
	f.StringSliceVar(&e.opt.Metadata, "metadata-sources", []string{ebs.SourceIMDS, ebs.SourceKubernetes}, "ebs: who is asked which instance this is, in this order: imds, kubernetes (the Node object)")
	f.StringVar(&e.opt.Zone, "zone", "", "ebs: zone of volumes for which none is asked for, and of this node where neither metadata service nor Kubernetes tells")
	f.StringToStringVar(&e.opt.Tags, "volume-tags", nil, "ebs: further tags of all volumes and snapshots, as key=value,...")
	f.Int64Var(&e.opt.ReservedVolumes, "reserved-volumes", 0, "ebs: attachments of this node that others need, the root volume included; by default those there are")
	f.BoolVar(&e.formatTags, "format-tags", true, "ebs: keep in tags of volumes that they were made, where no node agent keeps it: a node needs ec2:DescribeVolumes and ec2:CreateTags for that. false: a device that was wiped is formatted")
	f.StringVar(&e.opt.Sys, "sys-dir", "/sys", "ebs: where sysfs is; elsewhere only with a stand-in for EC2 (make ec2)")
	f.StringVar(&e.opt.Model, "device-model", "", "ebs: what the devices of volumes call themselves, by default as those of EBS do; others are refused")
	f.StringVar(&e.opt.Links, "links-dir", "/dev", "ebs: where udev makes its links")
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

// serviceAccountDir is where Kubernetes puts a pod's token.
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// kubeNode reads one Node object: all that is needed of Kubernetes here, and only where the metadata service is out of reach.
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
		return ebs.NodeObject{}, errors.New("the service account's ca.crt holds no certificate")
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
		return ebs.NodeObject{}, fmt.Errorf("read the Node object: status %d", code)
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
