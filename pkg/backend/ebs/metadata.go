package ebs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// NodeObject is the part of a Kubernetes Node that the package uses.
type NodeObject struct {
	ProviderID string // aws:///eu-west-1a/i-0123…
	Labels     map[string]string
}

// The sources of an instance's identity.
const (
	SourceIMDS       = "imds"       // the instance metadata service
	SourceKubernetes = "kubernetes" // Options.NodeObject
)

// Labels of a node that a cloud provider sets.
const (
	labelRegion = "topology.kubernetes.io/region"
	labelType   = "node.kubernetes.io/instance-type"
)

// identity identifies an instance.
type identity struct {
	instance, kind, region, zone string
	imds                         bool // read from the metadata service
}

// metadata asks the instance metadata service (version 2 only) and, if that does not answer,
// Kubernetes.
type metadata struct {
	client *imds.Client
	opt    *Options
	mu     *sync.Mutex
	known  *identity // guarded by mu
}

func newMetadata(cfg aws.Config, o Options) metadata {
	client := imds.NewFromConfig(cfg, func(m *imds.Options) {
		m.EnableFallback = aws.FalseTernary // never fall back to version 1
		if o.MetadataEndpoint != "" {
			m.Endpoint, m.ClientEnableState = o.MetadataEndpoint, imds.ClientEnabled
		}
	})
	return metadata{client: client, opt: &o, mu: &sync.Mutex{}, known: new(identity)}
}

// identity is read only once, because it never changes.
func (m metadata) identity(ctx context.Context) (identity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known.instance != "" {
		return *m.known, nil
	}
	sources := m.opt.Metadata
	if len(sources) == 0 {
		sources = []string{SourceIMDS, SourceKubernetes}
	}
	var errs []error
	for _, s := range sources {
		ask := m.fromIMDS
		if s == SourceKubernetes {
			ask = m.fromNode
		}
		i, err := ask(ctx)
		if err == nil {
			*m.known = i
			return i, nil
		}
		errs = append(errs, err)
	}
	return identity{}, fmt.Errorf("find out which instance this is: %w", errors.Join(errs...))
}

func (m metadata) fromIMDS(ctx context.Context) (identity, error) {
	doc, err := m.client.GetInstanceIdentityDocument(ctx, nil)
	if err != nil {
		return identity{}, err
	}
	i := identity{imds: true, instance: doc.InstanceID, kind: doc.InstanceType, region: doc.Region, zone: doc.AvailabilityZone}
	if !instanceID.MatchString(i.instance) || i.zone == "" {
		return identity{}, errors.New("the identity document of the metadata service has no instance id or no zone")
	}
	return i, nil
}

// interfaces counts the network interfaces of this instance, which may change when pods start and
// end.
func (m metadata) interfaces(ctx context.Context) (int64, error) {
	out, err := m.client.GetMetadata(ctx, &imds.GetMetadataInput{Path: "network/interfaces/macs"})
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(io.LimitReader(out.Content, 64<<10))
	return int64(len(strings.Fields(string(text)))), errors.Join(err, out.Content.Close())
}

func (m metadata) fromNode(ctx context.Context) (identity, error) {
	if m.opt.NodeObject == nil {
		return identity{}, errors.New("not in a pod, or NODE_NAME is not set")
	}
	n, err := m.opt.NodeObject(ctx)
	if err != nil {
		return identity{}, err
	}
	id := n.ProviderID[strings.LastIndexByte(n.ProviderID, '/')+1:]
	i := identity{instance: id, kind: n.Labels[labelType], region: n.Labels[labelRegion], zone: n.Labels[zoneKey]}
	if !instanceID.MatchString(i.instance) || i.zone == "" {
		return identity{}, errors.New("the Node object has no EC2 provider id or no zone label")
	}
	return i, nil
}
