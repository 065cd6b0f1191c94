package vm

import (
	"context"
	"errors"
	"fmt"
	"net/rpc"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// PortName is the virtio port over which the agent answers net/rpc calls.
const PortName = "dev.sealvol.agent"

// AgentName is the name of the RPC service.
const AgentName = "Agent"

// The types of the agent's calls; test/nvme/agent describes them.
type (
	// Program is a program to start; its output goes to the console.
	Program struct{ Args []string }
	// Call is a gRPC call to a unix socket.
	Call struct {
		Socket, Method string
		Request        []byte
		Timeout        time.Duration
	}
	// Answer is the result of a Call.
	Answer struct {
		Response []byte
		Code     codes.Code
		Message  string
	}
	// File is a file, or a range of it, with its content; Sync makes it durable.
	File struct {
		Path   string
		Offset int64
		Data   []byte
		Sync   bool
	}
	// Range of a file or device; Length 0 means to its end.
	Range struct {
		Path           string
		Offset, Length int64
	}
	// Link is a symbolic link.
	Link struct{ Path, To string }
	// Size is the result of statfs.
	Size struct{ Total, Free int64 }
	// Acknowledged says how many records of RecordBytes a writer has synced. Err is the reason why
	// it stopped; "" if it is still running.
	Acknowledged struct {
		Records int64
		Err     string
	}
	// None is empty.
	None struct{}
)

// RecordBytes is the size of a writer's records; record n is filled with Record(n).
const RecordBytes = 4096

// Record returns the content of record n.
func Record(n int64) []byte {
	b := make([]byte, 0, RecordBytes)
	for len(b) < RecordBytes {
		b = fmt.Appendf(b, "%015d\n", n)
	}
	return b
}

// Call calls the agent.
func (m *Machine) Call(ctx context.Context, method string, args, reply any) error {
	c := m.agent.Go(AgentName+"."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-c.Done:
		if c.Error != nil {
			return fmt.Errorf("%s: %w", method, c.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

// Conn returns a connection for gRPC clients to a unix socket in the machine. It does not support
// streams.
func (m *Machine) Conn(socket string) grpc.ClientConnInterface { return conn{m, socket} }

type conn struct {
	m      *Machine
	socket string
}

// Invoke implements grpc.ClientConnInterface.
func (c conn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	in, ok := args.(proto.Message)
	out, ok2 := reply.(proto.Message)
	if !ok || !ok2 {
		return errors.New("unsupported message type: want protocol buffers")
	}
	b, err := proto.Marshal(in)
	if err != nil {
		return err
	}
	call, answer := Call{Socket: c.socket, Method: method, Request: b, Timeout: time.Minute}, Answer{}
	if d, ok := ctx.Deadline(); ok {
		call.Timeout = time.Until(d)
	}
	// Wait a little longer, because the answer may contain more than that it is late.
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), call.Timeout+30*time.Second)
	defer cancel()
	if err := c.m.Call(wait, "Invoke", call, &answer); err != nil {
		return err
	}
	if answer.Code != codes.OK {
		return status.Error(answer.Code, answer.Message)
	}
	return proto.Unmarshal(answer.Response, out)
}

// NewStream implements grpc.ClientConnInterface.
func (conn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("streams are not supported")
}
