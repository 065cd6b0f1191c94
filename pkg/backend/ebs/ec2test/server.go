package ec2test

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Delays are how long changes take.
type Delays struct {
	Create, Delete, Attach, Detach time.Duration
	Modify, Optimize               time.Duration // until the size is in effect; until the next modification is allowed
	Snapshot                       time.Duration
	// Lag is how old the state is that describes show.
	Lag time.Duration
	// Answer is how long every call takes.
	Answer time.Duration
}

// Limits are the limits of the account. Zero means none.
type Limits struct {
	Volumes   int
	ModifyTo  int64 // IOPS: a modification to more silently gets this value
	TotalGiB  int64
	PerSecond float64 // calls per second of each action; more are throttled
	Burst     int
}

// Options configure New.
type Options struct {
	Region string   // default "test-1"
	Zones  []string // default "<region>a" and "<region>b"
	// EdgeZones are additional zones that the account has opted into, with their types:
	// "local-zone", "wavelength-zone".
	EdgeZones map[string]string
	Now       func() time.Time
	Delays    Delays
	Limits    Limits
	// Disks is a directory for the data of volumes; "" for volumes without data.
	Disks string
	// KMSKeys are the keys that exist and may be used. A volume with another key fails some time
	// after its creation.
	KMSKeys []string
	// Ghosts answers a client token whose volume was deleted with that volume, as EC2 did.
	// Otherwise the answer is IdempotentParameterMismatch, as EC2 does now.
	Ghosts bool
	// NoTypes are the volume types that are missing in a zone, by zone.
	NoTypes map[string][]string
	// Listen is a loopback address. Default: 127.0.0.1 with any port.
	Listen string
	// Listener replaces Listen, for example by a socket in the test's own network namespace.
	Listener net.Listener
	// MaxPage is the longest page of a describe. Default: 1000.
	MaxPage int
}

// Call is one request to EC2.
type Call struct {
	Action string
	Params url.Values
	N      int // number of earlier calls, of all actions
}

// Fault is what goes wrong with a call.
type Fault struct {
	Code    string        // return this error and do nothing
	Status  int           // HTTP status; 0 means 400
	Message string        // of the error
	Drop    bool          // close the connection before anything is done
	Lost    bool          // execute the call, and close the connection without an answer
	Hang    bool          // with Drop or Lost: wait until the client gives up
	Wait    time.Duration // answer late
}

// Server is one region of one account.
type Server struct {
	opt  Options
	http *http.Server
	url  string
	done chan struct{}

	mu        sync.Mutex // guards everything below
	volumes   map[string]*volume
	snapshots map[string]*snapshot
	instances map[string]*instance
	tokens    map[string]tokenUse
	seq       int64
	calls     []Call
	counts    map[string]int
	buckets   map[string]*bucket
	fault     func(Call) Fault
	stuck     map[string]bool // device names at which attaching never ends
	slowOff   bool            // detaching never ends
	delays    Delays
	disks     *disks
	strange   []string // requests that no driver should ever make
	keys      []string // KMS keys that may be used
	imdsOf    string   // the instance for which the metadata service answers
}

type bucket struct {
	tokens float64
	at     time.Time
}

// New starts a server. The caller closes it.
func New(o Options) (*Server, error) {
	if o.Region == "" {
		o.Region = "test-1"
	}
	if len(o.Zones) == 0 {
		o.Zones = []string{o.Region + "a", o.Region + "b"}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.MaxPage == 0 {
		o.MaxPage = 1000
	}
	s := &Server{opt: o, delays: o.Delays, keys: slices.Clone(o.KMSKeys), done: make(chan struct{}), volumes: map[string]*volume{}, snapshots: map[string]*snapshot{}, instances: map[string]*instance{},
		tokens: map[string]tokenUse{}, counts: map[string]int{}, buckets: map[string]*bucket{}, stuck: map[string]bool{}}
	if o.Disks != "" {
		d, err := newDisks(o.Disks)
		if err != nil {
			return nil, err
		}
		s.disks = d
	}
	l, err := o.Listener, error(nil)
	if l == nil {
		l, err = listen(o.Listen)
	}
	if err != nil {
		return nil, err
	}
	s.url = "http://" + l.Addr().String()
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(l) // ends with Close
	}()
	return s, nil
}

func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return nil, errors.Join(fmt.Errorf("%s is not a loopback address", address), l.Close())
	}
	return l, nil
}

// URL is the endpoint of EC2 and of the metadata service.
func (s *Server) URL() string { return s.url }

// Region returns the name of the region.
func (s *Server) Region() string { return s.opt.Region }

// Do answers a request without a network, as an aws.HTTPClient. It is for tests with the clock of
// synctest, which stops while a goroutine waits for a socket.
func (s *Server) Do(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it this way, too
			resp, err = nil, io.ErrUnexpectedEOF // the connection was closed
		} else if p != nil {
			panic(p)
		}
	}()
	w := httptest.NewRecorder()
	s.serve(w, r)
	return w.Result(), r.Context().Err()
}

// Isolate makes sure that this process cannot reach AWS or a metadata service by the SDK's
// defaults: its endpoints lead to a closed loopback port. Call it in TestMain of every package that
// links the SDK.
func Isolate() error {
	errs := []error{os.Unsetenv("AWS_CA_BUNDLE"), os.Unsetenv("AWS_PROFILE")}
	for k, v := range map[string]string{"AWS_ENDPOINT_URL": NoEndpoint, "AWS_EC2_METADATA_SERVICE_ENDPOINT": NoEndpoint, "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "nowhere-1",
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"} {
		errs = append(errs, os.Setenv(k, v))
	}
	return errors.Join(errs...)
}

// NoEndpoint is an address where no server answers.
const NoEndpoint = "http://127.0.0.1:9"

// Env is the environment of a process that must use this server and cannot reach any other.
func (s *Server) Env() []string {
	return []string{"AWS_ENDPOINT_URL=" + s.url, "AWS_EC2_METADATA_SERVICE_ENDPOINT=" + s.url, "AWS_EC2_METADATA_DISABLED=false", "AWS_REGION=" + s.opt.Region,
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
}

// Close stops the server and removes the devices of attached volumes.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disks != nil {
		err = errors.Join(err, s.disks.close())
	}
	return err
}

// SetFault makes f decide about each call; nil for no faults. It returns the previous function.
func (s *Server) SetFault(f func(Call) Fault) (before func(Call) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.fault = s.fault, f
	return before
}

// SetDelays changes the delays of everything that begins from now on.
func (s *Server) SetDelays(d Delays) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delays = d
}

// Counts returns the number of calls so far, by action.
func (s *Server) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[string]int, len(s.counts))
	for k, v := range s.counts {
		m[k] = v
	}
	return m
}

// Calls returns all calls so far.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Strange lists requests that no driver should ever make, such as detaching by force.
func (s *Server) Strange() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.strange...)
}

// apiError is an error of EC2.
type apiError struct {
	status        int
	code, message string
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func fail(code, format string, args ...any) error {
	return &apiError{http.StatusBadRequest, code, fmt.Sprintf(format, args...)}
}

var actions = map[string]func(*Server, *request) ([]part, error){
	"CreateVolume": (*Server).createVolume, "DeleteVolume": (*Server).deleteVolume, "CopyVolumes": (*Server).copyVolumes,
	"AttachVolume": (*Server).attachVolume, "DetachVolume": (*Server).detachVolume,
	"ModifyVolume": (*Server).modifyVolume, "DescribeVolumesModifications": (*Server).describeModifications,
	"DescribeVolumes": (*Server).describeVolumes, "DescribeVolumeStatus": (*Server).describeVolumeStatus,
	"CreateSnapshot": (*Server).createSnapshot, "DeleteSnapshot": (*Server).deleteSnapshot, "DescribeSnapshots": (*Server).describeSnapshots,
	"CreateTags": (*Server).createTags, "DeleteTags": (*Server).deleteTags,
	"DescribeInstances": (*Server).describeInstances, "DescribeInstanceTypes": (*Server).describeInstanceTypes,
	"DescribeAvailabilityZones": (*Server).describeZones,
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/latest/") {
		s.metadata(w, r)
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.ParseForm() != nil {
		http.Error(w, "not the EC2 query protocol", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	call := Call{Action: r.PostForm.Get("Action"), Params: r.PostForm, N: len(s.calls)}
	s.calls = append(s.calls, call)
	s.counts[call.Action]++
	f := s.fault
	wait := s.delays.Answer
	s.mu.Unlock()
	var bad Fault
	if f != nil {
		bad = f(call)
	}
	if wait += bad.Wait; wait > 0 {
		pause(r, wait)
	}
	if bad.Drop {
		drop(w, r, bad.Hang)
	}
	var answer []part
	var err error
	if bad.Code != "" {
		err = &apiError{max(bad.Status, http.StatusBadRequest), bad.Code, bad.Message}
	} else {
		answer, err = s.act(call, r.Header.Get("Authorization"))
	}
	if bad.Lost {
		drop(w, r, bad.Hang)
	}
	w.Header().Set("Date", s.opt.Now().UTC().Format(http.TimeFormat))
	reply(w, call.Action, answer, err)
}

func pause(r *http.Request, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
}

// drop closes the connection.
func drop(_ http.ResponseWriter, r *http.Request, hang bool) {
	if hang {
		<-r.Context().Done()
	}
	panic(http.ErrAbortHandler)
}

// act executes one call.
func (s *Server) act(c Call, auth string) ([]part, error) {
	if !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=") || !strings.Contains(auth, "/"+s.opt.Region+"/ec2/aws4_request") {
		return nil, &apiError{http.StatusUnauthorized, "AuthFailure", "AWS was not able to validate the provided access credentials"}
	}
	if v := c.Params.Get("Version"); v != "2016-11-15" {
		return nil, fail("InvalidParameterValue", "version %q", v)
	}
	do := actions[c.Action]
	if do == nil {
		return nil, fail("InvalidAction", "The action %s is not valid for this web service.", c.Action)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opt.Now()
	if !s.allowed(c.Action, now) {
		return nil, &apiError{http.StatusServiceUnavailable, "RequestLimitExceeded", "Request limit exceeded."}
	}
	s.settle(now)
	q := &request{now: now, p: c.Params, used: map[string]bool{"Action": true, "Version": true}}
	return do(s, q)
}

// allowed is a token bucket for each action, like EC2's.
func (s *Server) allowed(action string, now time.Time) bool {
	l := s.opt.Limits
	if l.PerSecond == 0 {
		return true
	}
	b := s.buckets[action]
	if b == nil {
		b = &bucket{tokens: float64(max(l.Burst, 1)), at: now}
		s.buckets[action] = b
	}
	b.tokens = min(float64(max(l.Burst, 1)), b.tokens+now.Sub(b.at).Seconds()*l.PerSecond)
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// reply writes an answer or error as XML.
func reply(w http.ResponseWriter, action string, answer []part, err error) {
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	var body []byte
	if err == nil {
		body, err = render(action, answer)
	}
	if err != nil {
		var api *apiError
		if !errors.As(err, &api) {
			api = &apiError{http.StatusInternalServerError, "InternalError", err.Error()}
		}
		w.WriteHeader(api.status)
		body, err = xml.Marshal(xmlErrors{XMLName: xml.Name{Local: "Response"}, Errors: []xmlError{{api.code, api.message}}, RequestID: newID("")})
		if err != nil {
			panic(err) // one of this package's own types
		}
	}
	_, _ = w.Write(body) // fails if the client is gone
}

// newID returns an id like EC2's: 17 hexadecimal digits.
func newID(prefix string) string {
	var b [9]byte
	rand.Read(b[:])
	return prefix + "0" + hex.EncodeToString(b[:])[:16]
}
