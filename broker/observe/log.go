package observe

import (
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLogger returns the log that writes to w: lines for a person when w is a
// terminal, one JSON object a line otherwise. It has no sampling, no stack
// traces and no colour, and is safe for concurrent use whatever w is.
//
// Text that others chose (profile names, answers of servers) belongs in fields,
// which both forms quote, and never in a message, which the first prints as it is.
func NewLogger(w io.Writer, terminal bool, level zapcore.Level) *zap.Logger {
	sink := zapcore.Lock(zapcore.AddSync(w))
	enc := zapcore.EncoderConfig{
		TimeKey:        "time",
		LevelKey:       "level",
		NameKey:        "logger",
		MessageKey:     "msg",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     utcMillis,
		EncodeDuration: zapcore.StringDurationEncoder,
	}
	encoder := zapcore.NewJSONEncoder
	if terminal {
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		enc.EncodeTime = zapcore.TimeEncoderOfLayout(time.TimeOnly)
		enc.ConsoleSeparator = "  "
		encoder = zapcore.NewConsoleEncoder
	}
	return zap.New(zapcore.NewCore(encoder(enc), sink, level), zap.ErrorOutput(sink))
}

func utcMillis(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}
