package ec2test

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// Instance is a machine whose root volume is always attached.
type Instance struct {
	ID, Type, Zone, State string
	ENIs                  int
	// Dir is where this instance finds its devices, in sys and dev below it. Without it, all
	// instances share Options.Disks.
	Dir string
}

type instance struct {
	Instance
	seq  int64
	root string
}

// InstanceType is what DescribeInstanceTypes returns for a type.
type InstanceType struct {
	// Max is MaximumEbsAttachments. For types that share their attachments with network interfaces
	// and local disks, EC2 has already subtracted the first interface and the local disks; further
	// interfaces count. Xen types also call themselves shared, but there interfaces do not count.
	Max, Cards  int
	Shared, Xen bool
	LocalDisks  int
	Unsaid      bool // the API does not return the maximum
}

// interfaces returns how many attachments of the maximum an instance with n network interfaces has
// lost to them.
func (t InstanceType) interfaces(n int) int {
	if t.Shared && !t.Xen {
		return n - 1
	}
	return 0
}

// InstanceTypes are some types with the values that EC2 returns for them.
var InstanceTypes = map[string]InstanceType{
	"m5.large":        {Max: 27, Cards: 1, Shared: true},
	"m5d.large":       {Max: 26, Cards: 1, Shared: true, LocalDisks: 1},
	"m5d.24xlarge":    {Max: 23, Cards: 1, Shared: true, LocalDisks: 4},
	"i3en.24xlarge":   {Max: 19, Cards: 1, Shared: true, LocalDisks: 8},
	"g4dn.xlarge":     {Max: 25, Cards: 1, Shared: true, LocalDisks: 1}, // and one for its GPU
	"d3.8xlarge":      {Max: 3, Cards: 1, Shared: true, LocalDisks: 24},
	"m5.metal":        {Max: 31, Cards: 1, Shared: true},
	"m7i.large":       {Max: 32, Cards: 1},
	"p4d.24xlarge":    {Max: 28, Cards: 1, LocalDisks: 8},
	"r8gb.metal-48xl": {Max: 78, Cards: 2},
	"t3.old":          {Max: 27, Cards: 1, Shared: true, Unsaid: true}, // not a real type: EC2 returns the maximum of all types
	"i3en.old":        {Max: 19, Cards: 1, Shared: true, LocalDisks: 8, Unsaid: true},
	"tiny":            {Max: 5, Cards: 1}, // not a real type
	"m4.large":        {Max: 40, Cards: 1, Shared: true, Xen: true},
	"i3.16xlarge":     {Max: 40, Cards: 1, Shared: true, Xen: true, LocalDisks: 8},
	"m3.old":          {Max: 40, Cards: 1, Xen: true, Unsaid: true},
}

// AddInstance starts an instance and returns its id.
func (s *Server) AddInstance(i Instance) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i.ID == "" {
		i.ID = newID("i-")
	}
	if i.Type == "" {
		i.Type = "m5.large"
	}
	if i.Zone == "" {
		i.Zone = s.opt.Zones[0]
	}
	if i.State == "" {
		i.State = "running"
	}
	i.ENIs = max(i.ENIs, 1)
	s.seq++
	now := s.opt.Now()
	root := &volume{seq: s.seq, volumeState: volumeState{id: newID("vol-"), zone: i.Zone, state: "in-use", created: now, tags: map[string]string{}, shape: shape{kind: "gp3", size: 8, iops: 3000, throughput: 125},
		attached: []attachment{{instance: i.ID, device: "/dev/xvda", state: "attached", at: now}}}}
	s.show(root, now.Add(-s.delays.Lag))
	s.volumes[root.id] = root
	s.seq++
	s.instances[i.ID] = &instance{i, s.seq, root.id}
	if s.imdsOf == "" {
		s.imdsOf = i.ID
	}
	return i.ID
}

// Terminate ends an instance: its volumes are detached, its root volume is deleted.
func (s *Server) Terminate(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, now := s.instances[id], s.opt.Now()
	s.settle(now)
	in.State = "terminated"
	for _, v := range s.volumes {
		if slices.ContainsFunc(v.attached, func(a attachment) bool { return a.instance == id }) {
			s.detached(v, id)
			v.gone = v.id == in.root
			s.show(v, now)
		}
	}
}

// Stop stops an instance whose node hangs: its volumes stay attached, and it writes nothing any
// more.
func (s *Server) Stop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(s.opt.Now())
	s.instances[id].State = "stopped"
	for _, v := range s.volumes {
		if s.disks != nil && slices.ContainsFunc(v.attached, func(a attachment) bool { return a.instance == id }) {
			s.disks.cut(v.id)
		}
	}
}

// SetInterfaces changes the number of network interfaces of an instance, as starting and ending
// pods do.
func (s *Server) SetInterfaces(id string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instances[id].ENIs = n
}

// SetMetadataOf selects the instance for which the metadata service answers; "" for none.
func (s *Server) SetMetadataOf(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.imdsOf = id
}

var instanceID = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)

func (s *Server) instance(id string) (*instance, error) {
	if !instanceID.MatchString(id) {
		return nil, fail("InvalidInstanceID.Malformed", "Invalid id: \"%s\"", id)
	}
	in := s.instances[id]
	if in == nil {
		return nil, fail("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
	}
	return in, nil
}

type xmlInstance struct {
	ID      string       `xml:"instanceId"`
	Type    string       `xml:"instanceType"`
	State   string       `xml:"instanceState>name"`
	Zone    string       `xml:"placement>availabilityZone"`
	Root    string       `xml:"rootDeviceName"`
	Hyper   string       `xml:"hypervisor"`
	Devices []xmlMapping `xml:"blockDeviceMapping>item"`
	ENIs    []xmlENI     `xml:"networkInterfaceSet>item"`
}

type xmlMapping struct {
	Name   string `xml:"deviceName"`
	Volume string `xml:"ebs>volumeId"`
	Status string `xml:"ebs>status"`
	Card   int    `xml:"ebs>ebsCardIndex"`
}

type xmlENI struct {
	ID string `xml:"networkInterfaceId"`
}

type xmlReservation struct {
	ID        string        `xml:"reservationId"`
	Instances []xmlInstance `xml:"instancesSet>item"`
}

func (s *Server) describeInstances(q *request) ([]part, error) {
	ids := q.list("InstanceId")
	for _, id := range ids {
		if _, err := s.instance(id); err != nil {
			return nil, err
		}
	}
	var all []*instance
	for _, in := range s.instances {
		if len(ids) == 0 || slices.Contains(ids, in.ID) {
			all = append(all, in)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].seq < all[j].seq })
	got, next, err := page(q, all, func(in *instance) int64 { return in.seq }, s.opt.MaxPage, len(ids) > 0)
	if err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	var items []xmlReservation
	for _, in := range got {
		items = append(items, xmlReservation{newID("r-"), []xmlInstance{s.instanceXML(q, in)}})
	}
	return withNext(next, list("reservationSet", items)), nil
}

func (s *Server) instanceXML(q *request, in *instance) xmlInstance {
	x := xmlInstance{ID: in.ID, Type: in.Type, State: in.State, Zone: in.Zone, Root: "/dev/xvda", Hyper: "xen"}
	for range in.ENIs {
		x.ENIs = append(x.ENIs, xmlENI{newID("eni-")})
	}
	for _, v := range s.volumes {
		st, ok := seen(v.shown, q.now, s.delays.Lag)
		for _, a := range st.attached {
			if ok && a.instance == in.ID {
				x.Devices = append(x.Devices, xmlMapping{a.device, v.id, a.state, a.card})
			}
		}
	}
	return x
}

type xmlInstanceType struct {
	Type  string    `xml:"instanceType"`
	Hyper string    `xml:"hypervisor,omitempty"`
	Limit string    `xml:"ebsInfo>attachmentLimitType,omitempty"`
	Max   int       `xml:"ebsInfo>maximumEbsAttachments,omitempty"`
	Cards int       `xml:"ebsInfo>maximumEbsCards,omitempty"`
	NVMe  string    `xml:"ebsInfo>nvmeSupport"`
	Disks []xmlDisk `xml:"instanceStorageInfo>disks>item"`
	Local string    `xml:"instanceStorageInfo>nvmeSupport,omitempty"`
}

type xmlDisk struct {
	Count int `xml:"count"`
}

func (s *Server) describeInstanceTypes(q *request) ([]part, error) {
	names := q.list("InstanceType")
	if err := q.check(); err != nil {
		return nil, err
	}
	var items []xmlInstanceType
	for _, name := range names {
		t, ok := InstanceTypes[name]
		if !ok {
			return nil, fail("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", name)
		}
		x := xmlInstanceType{Type: name, Hyper: "nitro", NVMe: "required"}
		if t.Xen {
			x.Hyper, x.NVMe = "xen", "unsupported"
		}
		if !t.Unsaid {
			x.Max, x.Cards, x.Limit = t.Max, t.Cards, "dedicated"
			if t.Shared {
				x.Limit = "shared"
			}
		}
		if t.LocalDisks > 0 {
			x.Disks, x.Local = []xmlDisk{{t.LocalDisks}}, "required"
		}
		items = append(items, x)
	}
	return []part{list("instanceTypeSet", items)}, nil
}

type xmlZone struct {
	Name   string `xml:"zoneName"`
	ID     string `xml:"zoneId"`
	State  string `xml:"zoneState"`
	Region string `xml:"regionName"`
	Type   string `xml:"zoneType"`
}

func (s *Server) describeZones(q *request) ([]part, error) {
	names, filters := q.list("ZoneName"), q.filters()
	for _, f := range filters {
		if f.name != "state" && f.name != "zone-type" {
			return nil, fail("InvalidParameterValue", "The filter '%s' is invalid", f.name)
		}
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	var items []xmlZone
	for _, z := range slices.Concat(s.opt.Zones, slices.Sorted(maps.Keys(s.opt.EdgeZones))) {
		x := xmlZone{z, "id-" + z, "available", s.opt.Region, cmp.Or(s.opt.EdgeZones[z], "availability-zone")}
		wanted := func(f filter) bool {
			return f.match([]string{map[string]string{"state": x.State, "zone-type": x.Type}[f.name]})
		}
		if (len(names) == 0 || slices.Contains(names, z)) && !slices.ContainsFunc(filters, func(f filter) bool { return !wanted(f) }) {
			items = append(items, x)
		}
	}
	return []part{list("availabilityZoneInfo", items)}, nil
}

// imdsToken is the session token of IMDSv2.
const imdsToken = "c2Vzc2lvbg=="

// metadata is the instance metadata service, version 2 only.
func (s *Server) metadata(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	in, known := Instance{}, false
	if i := s.instances[s.imdsOf]; i != nil {
		in, known = i.Instance, true
	}
	s.mu.Unlock()
	if !known {
		http.NotFound(w, r)
		return
	}
	if r.URL.Path == "/latest/api/token" {
		if r.Method != http.MethodPut || r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" {
			http.Error(w, "bad token request", http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds"))
		_, _ = w.Write([]byte(imdsToken))
		return
	}
	if r.Method != http.MethodGet || r.Header.Get("X-aws-ec2-metadata-token") != imdsToken {
		http.Error(w, "no token", http.StatusUnauthorized)
		return
	}
	var text string
	switch strings.TrimSuffix(r.URL.Path, "/") {
	case "/latest/dynamic/instance-identity/document":
		b, err := json.Marshal(map[string]string{"instanceId": in.ID, "instanceType": in.Type, "region": s.opt.Region, "availabilityZone": in.Zone, "accountId": "123456789012", "version": "2017-09-30"})
		if err != nil {
			panic(err)
		}
		text = string(b)
	case "/latest/meta-data/instance-id":
		text = in.ID
	case "/latest/meta-data/instance-type":
		text = in.Type
	case "/latest/meta-data/placement/availability-zone":
		text = in.Zone
	case "/latest/meta-data/placement/region":
		text = s.opt.Region
	case "/latest/meta-data/network/interfaces/macs":
		for range in.ENIs {
			text += "02:00:00:00:00:01/\n"
		}
	case "/latest/meta-data/block-device-mapping":
		text = "ami\nroot"
	default:
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write([]byte(text))
}
