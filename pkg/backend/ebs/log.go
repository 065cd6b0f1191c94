package ebs

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
)

// logCalls logs one line for each call, whatever the number of its attempts: the operation, its
// duration, EC2's request id and the error code. It never logs arguments.
func logCalls(log *slog.Logger) func(*middleware.Stack) error {
	call := func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
		out middleware.InitializeOutput, meta middleware.Metadata, err error,
	) {
		begin := time.Now()
		out, meta, err = next.HandleInitialize(ctx, in)
		action := awsmiddleware.GetOperationName(ctx)
		level := slog.LevelInfo
		if strings.HasPrefix(action, "Describe") {
			level = slog.LevelDebug
		}
		attrs := []slog.Attr{slog.String("action", action), slog.String("took", time.Since(begin).Round(time.Millisecond).String())}
		if id, ok := awsmiddleware.GetRequestIDMetadata(meta); ok {
			attrs = append(attrs, slog.String("awsRequestId", id))
		}
		var refused smithy.APIError
		if errors.As(err, &refused) {
			attrs = append(attrs, slog.String("code", refused.ErrorCode()))
		}
		if err != nil {
			attrs = append(attrs, slog.String("error", err.Error()))
		}
		log.LogAttrs(ctx, level, "ec2 call", attrs...)
		return out, meta, err
	}
	return func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("LogCall", call), middleware.Before)
	}
}
