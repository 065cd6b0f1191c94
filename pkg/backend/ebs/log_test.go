package ebs

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/sealvol/sealvol/pkg/backend/ebs/ec2test"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// logBuffer is a log that several goroutines write to.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Calls to EC2 are logged with the id of the call that needs them, including describes for a single
// caller, and with the code of their error.
func TestLogCalls(t *testing.T) {
	s := newEC2(t, ec2test.Options{}, false)
	var out logBuffer
	o := options(s)
	o.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b := open(t, o)
	ctx := requestid.With(t.Context(), "call-7")
	v, err := b.Create(ctx, spec("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	s.SetFault(func(c ec2test.Call) ec2test.Fault {
		if c.Action == "DeleteVolume" {
			return ec2test.Fault{Code: "UnauthorizedOperation", Status: 403, Message: "no"}
		}
		return ec2test.Fault{}
	})
	if err := b.Delete(ctx, v.ID); err == nil {
		t.Fatal("deleted")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"level=INFO msg=\"ec2 call\" action=CreateVolume",
		"level=DEBUG msg=\"ec2 call\" action=DescribeVolumes",
		"code=UnauthorizedOperation",
	} {
		found := false
		for line := range strings.Lines(out.b.String()) {
			found = found || strings.Contains(line, want) && strings.Contains(line, "requestId=call-7")
		}
		if !found {
			t.Errorf("no line with %s and the id", want)
		}
	}
	if strings.Contains(out.b.String(), "requestId= ") {
		t.Error("an id that is none")
	}
}
