package csi

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/sealvol/sealvol/pkg/requestid"
)

// sanitise returns the part of a message that may be logged: scalar fields, and messages made of
// them, that are not marked csi_secret. It drops maps and lists of scalars, whatever they hold.
func sanitise(m proto.Message) slog.Value {
	if m == nil {
		return slog.Value{}
	}
	return slog.GroupValue(sanitised(m.ProtoReflect())...)
}

func sanitised(m protoreflect.Message) []slog.Attr {
	var attrs []slog.Attr
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		isMessage := f.Kind() == protoreflect.MessageKind || f.Kind() == protoreflect.GroupKind
		switch {
		case isSecret(f) || f.IsMap() || f.Kind() == protoreflect.BytesKind:
		case f.IsList() && isMessage:
			var items []slog.Attr
			for i := range v.List().Len() {
				items = append(items, slog.Attr{Key: fmt.Sprint(i), Value: slog.GroupValue(sanitised(v.List().Get(i).Message())...)})
			}
			attrs = append(attrs, slog.Attr{Key: string(f.Name()), Value: slog.GroupValue(items...)})
		case f.IsList():
		case isMessage:
			attrs = append(attrs, slog.Attr{Key: string(f.Name()), Value: slog.GroupValue(sanitised(v.Message())...)})
		case f.Kind() == protoreflect.EnumKind:
			attrs = append(attrs, slog.Int(string(f.Name()), int(v.Enum())))
		default:
			attrs = append(attrs, slog.Any(string(f.Name()), v.Interface()))
		}
		return true
	})
	return attrs
}

// isSecret fails closed: a field whose options cannot be read counts as secret.
func isSecret(f protoreflect.FieldDescriptor) bool {
	o, ok := f.Options().(*descriptorpb.FieldOptions)
	if !ok {
		return true
	}
	if o == nil || !proto.HasExtension(o, csi.E_CsiSecret) {
		return false
	}
	secret, ok := proto.GetExtension(o, csi.E_CsiSecret).(bool)
	return !ok || secret
}

// metadataKey is the metadata in which a caller may send an id for its call, and in which the
// response returns it.
const metadataKey = "x-request-id"

// withRequestID gives a call the id that its caller sent, or a new one.
func withRequestID(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	id := ""
	if sent := metadata.ValueFromIncomingContext(ctx, metadataKey); len(sent) == 1 {
		id = sent[0]
	}
	if !requestid.Valid(id) {
		id = requestid.New()
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs(metadataKey, id)) // fails without a stream, as in tests
	return next(requestid.With(ctx, id), req)
}

// logged writes one line for each call: failures as warnings, changes as information, the rest for
// debugging.
func logged(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
		begin := time.Now()
		resp, err := next(ctx, req)
		level := slog.LevelDebug
		if (&inflight{}).key(req) != "" {
			level = slog.LevelInfo
		}
		attrs := []slog.Attr{slog.String("method", method), slog.String("took", rounded(time.Since(begin)).String())}
		if err != nil {
			level = slog.LevelWarn
			attrs = append(attrs, slog.String("code", status.Code(err).String()), slog.String("error", err.Error()))
		}
		attrs = append(attrs, requestAttrs(req)...)
		if err == nil {
			attrs = append(attrs, responseAttrs(resp)...)
		}
		if m, ok := req.(proto.Message); ok && log.Enabled(ctx, slog.LevelDebug) {
			attrs = append(attrs, slog.Attr{Key: "request", Value: sanitise(m)})
		}
		log.LogAttrs(ctx, level, "call", attrs...)
		return resp, err
	}
}

// rounded rounds a duration to about three digits.
func rounded(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}

// requestAttrs returns what a call is about, from its request: names and ids, never a map or a
// secret.
func requestAttrs(req any) (attrs []slog.Attr) {
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if r, ok := req.(interface{ GetName() string }); ok {
		add("name", r.GetName())
	}
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		add("volume", r.GetVolumeId())
	}
	if r, ok := req.(interface{ GetSourceVolumeId() string }); ok {
		add("source", r.GetSourceVolumeId())
	}
	if r, ok := req.(interface{ GetSnapshotId() string }); ok {
		add("snapshot", r.GetSnapshotId())
	}
	if r, ok := req.(interface{ GetNodeId() string }); ok {
		add("node", r.GetNodeId())
	}
	if r, ok := req.(interface{ GetCapacityRange() *csi.CapacityRange }); ok && r.GetCapacityRange() != nil {
		attrs = append(attrs, slog.Int64("wantedBytes", r.GetCapacityRange().GetRequiredBytes()))
	}
	return attrs
}

// responseAttrs returns what a call created or found.
func responseAttrs(resp any) (attrs []slog.Attr) {
	switch r := resp.(type) {
	case *csi.CreateVolumeResponse:
		attrs = append(attrs, slog.String("volume", r.GetVolume().GetVolumeId()), slog.Int64("bytes", r.GetVolume().GetCapacityBytes()))
	case *csi.CreateSnapshotResponse:
		attrs = append(attrs, slog.String("snapshot", r.GetSnapshot().GetSnapshotId()), slog.Int64("bytes", r.GetSnapshot().GetSizeBytes()),
			slog.Bool("ready", r.GetSnapshot().GetReadyToUse()))
	case *csi.ControllerExpandVolumeResponse:
		attrs = append(attrs, slog.Int64("bytes", r.GetCapacityBytes()))
	case *csi.NodeExpandVolumeResponse:
		attrs = append(attrs, slog.Int64("bytes", r.GetCapacityBytes()))
	}
	return attrs
}

// recovered turns a panic into an error. It logs the panic's value only if it comes from the Go
// runtime, because any other value may contain secrets. A stack contains addresses, but no
// contents.
func recovered(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		defer func() {
			if p := recover(); p != nil {
				what := fmt.Sprintf("%T", p)
				if e, ok := p.(runtime.Error); ok {
					what = e.Error()
				}
				log.LogAttrs(ctx, slog.LevelError, "panic", slog.String("method", info.FullMethod), slog.String("panic", what), slog.String("stack", string(debug.Stack())))
				resp, err = nil, fmt.Errorf("bug in %s: see the stack in the driver's log and report it", info.FullMethod)
			}
		}()
		return next(ctx, req)
	}
}
