package ec2test

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"maps"
	"slices"
	"time"
)

// Responses in the form of EC2: the names are those of its API reference, lists are
// <xSet><item>…</item></xSet>.

type xmlErrors struct {
	XMLName   xml.Name
	Errors    []xmlError `xml:"Errors>Error"`
	RequestID string     `xml:"RequestID"`
}

type xmlError struct {
	Code    string
	Message string
}

// part is an element of a response, or, without a name, the members of v.
type part struct {
	name string
	v    any
}

// set is a list in EC2's form.
type set[T any] struct {
	Items []T `xml:"item"`
}

func list[T any](name string, items []T) part { return part{name, set[T]{items}} }

// withNext adds the token of the next page, if there is one.
func withNext(next string, parts ...part) []part {
	if next != "" {
		parts = append(parts, part{"nextToken", next})
	}
	return parts
}

// done is the response of calls that return nothing.
func done() []part { return []part{{"return", true}} }

// render writes a response.
func render(action string, parts []part) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(xml.Header + "<" + action + `Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>` + newID("") + "</requestId>")
	for _, p := range parts {
		var one bytes.Buffer
		name := cmp.Or(p.name, "flat")
		if err := xml.NewEncoder(&one).EncodeElement(p.v, xml.StartElement{Name: xml.Name{Local: name}}); err != nil {
			return nil, err
		}
		raw := one.Bytes()
		if p.name == "" {
			raw = bytes.TrimSuffix(bytes.TrimPrefix(raw, []byte("<flat>")), []byte("</flat>"))
		}
		b.Write(raw)
	}
	b.WriteString("</" + action + "Response>")
	return b.Bytes(), nil
}

type xmlTag struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

type xmlAttachment struct {
	VolumeID   string `xml:"volumeId"`
	InstanceID string `xml:"instanceId"`
	Device     string `xml:"device"`
	Status     string `xml:"status"`
	AttachTime string `xml:"attachTime,omitempty"`
	Card       int    `xml:"ebsCardIndex"`
	OnEnd      bool   `xml:"deleteOnTermination"`
}

type xmlVolume struct {
	VolumeID    string          `xml:"volumeId"`
	Size        int64           `xml:"size"`
	SnapshotID  string          `xml:"snapshotId"`
	SourceID    string          `xml:"sourceVolumeId,omitempty"`
	Zone        string          `xml:"availabilityZone"`
	Status      string          `xml:"status"`
	CreateTime  string          `xml:"createTime"`
	Attachments []xmlAttachment `xml:"attachmentSet>item"`
	Tags        []xmlTag        `xml:"tagSet>item"`
	Type        string          `xml:"volumeType"`
	IOPS        int64           `xml:"iops,omitempty"`
	Throughput  int64           `xml:"throughput,omitempty"`
	Encrypted   bool            `xml:"encrypted"`
	KMSKeyID    string          `xml:"kmsKeyId,omitempty"`
	MultiAttach bool            `xml:"multiAttachEnabled"`
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func xmlTags(m map[string]string) []xmlTag {
	var l []xmlTag
	for _, k := range slices.Sorted(maps.Keys(m)) {
		l = append(l, xmlTag{k, m[k]})
	}
	return l
}

func (a attachment) xml(volume string) xmlAttachment {
	return xmlAttachment{VolumeID: volume, InstanceID: a.instance, Device: a.device, Status: a.state, AttachTime: stamp(a.at), Card: a.card}
}

func (v volumeState) xml() xmlVolume {
	x := xmlVolume{VolumeID: v.id, Size: v.size, SnapshotID: v.snapshot, SourceID: v.source, Zone: v.zone, Status: v.state, CreateTime: stamp(v.created), Tags: xmlTags(v.tags),
		Type: v.kind, IOPS: v.iops, Throughput: v.throughput, Encrypted: v.encrypted, KMSKeyID: v.kms, MultiAttach: v.multi}
	for _, a := range v.attached {
		x.Attachments = append(x.Attachments, a.xml(v.id))
	}
	return x
}

type xmlModification struct {
	VolumeID           string `xml:"volumeId"`
	State              string `xml:"modificationState"`
	TargetSize         int64  `xml:"targetSize"`
	TargetIOPS         int64  `xml:"targetIops,omitempty"`
	TargetThroughput   int64  `xml:"targetThroughput,omitempty"`
	TargetType         string `xml:"targetVolumeType"`
	OriginalSize       int64  `xml:"originalSize"`
	OriginalIOPS       int64  `xml:"originalIops,omitempty"`
	OriginalThroughput int64  `xml:"originalThroughput,omitempty"`
	OriginalType       string `xml:"originalVolumeType"`
	Progress           int    `xml:"progress"`
	StartTime          string `xml:"startTime"`
	EndTime            string `xml:"endTime,omitempty"`
	StatusMessage      string `xml:"statusMessage,omitempty"`
}

type xmlSnapshot struct {
	SnapshotID string   `xml:"snapshotId"`
	VolumeID   string   `xml:"volumeId"`
	Status     string   `xml:"status"`
	Message    string   `xml:"statusMessage,omitempty"`
	StartTime  string   `xml:"startTime"`
	Progress   string   `xml:"progress"`
	VolumeSize int64    `xml:"volumeSize"`
	Encrypted  bool     `xml:"encrypted"`
	Owner      string   `xml:"ownerId"`
	Tags       []xmlTag `xml:"tagSet>item"`
}
