package csi

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// A log line says what a call is about and what its result was, in readable units and without
// secrets.
func TestLogLines(t *testing.T) {
	for _, c := range []struct {
		method string
		req    any
		resp   any
		err    error
		want   []string
	}{
		{
			"CreateVolume", &csi.CreateVolumeRequest{Name: "pvc-1", CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 30},
				Secrets: map[string]string{"kek": "hidden"}, Parameters: map[string]string{"x": "hidden"}},
			&csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: "lv-1", CapacityBytes: 2 << 30}}, nil,
			[]string{"level=INFO", "method=CreateVolume", "name=pvc-1", "volume=lv-1", "wantedBytes=1073741824", "bytes=2147483648"},
		},
		{
			"CreateVolume", &csi.CreateVolumeRequest{Name: "pvc-1"}, (*csi.CreateVolumeResponse)(nil), errors.New("no room"),
			[]string{"level=WARN", "name=pvc-1", `error="no room"`},
		},
		{
			"CreateSnapshot", &csi.CreateSnapshotRequest{Name: "snap-1", SourceVolumeId: "lv-1"},
			&csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{SnapshotId: "ls-1", SizeBytes: 5, ReadyToUse: true}}, nil,
			[]string{"name=snap-1", "source=lv-1", "snapshot=ls-1", "bytes=5", "ready=true"},
		},
		{
			"ControllerPublishVolume", &csi.ControllerPublishVolumeRequest{VolumeId: "lv-1", NodeId: "node-1"}, &csi.ControllerPublishVolumeResponse{}, nil,
			[]string{"volume=lv-1", "node=node-1"},
		},
		{
			"NodeStageVolume", &csi.NodeStageVolumeRequest{VolumeId: "lv-1", Secrets: map[string]string{"kek": "hidden"}}, &csi.NodeStageVolumeResponse{}, nil,
			[]string{"volume=lv-1"},
		},
	} {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		_, _ = logged(log)(context.Background(), c.req, &grpc.UnaryServerInfo{FullMethod: "/csi.v1.X/" + c.method},
			func(context.Context, any) (any, error) { return c.resp, c.err })
		for _, want := range append(c.want, "took=") {
			if !strings.Contains(out.String(), " "+want) && !strings.HasPrefix(out.String(), want) {
				t.Errorf("%s: no %s in %s", c.method, want, &out)
			}
		}
		if strings.Contains(out.String(), "hidden") {
			t.Errorf("%s: %s", c.method, &out)
		}
	}
}
