package cli

import (
	"context"
	"log/slog"
)

// quiet lowers a library's news by one level: its information is our debugging.
type quiet struct {
	slog.Handler
	level slog.Level
}

// Enabled reports whether a record of the library's level l is wanted.
func (q quiet) Enabled(_ context.Context, l slog.Level) bool {
	if l < slog.LevelWarn {
		l = slog.LevelDebug
	}
	return l >= q.level
}

// WithAttrs keeps the rule for the handler with attributes.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(attrs), q.level}
}

// WithGroup keeps the rule for the handler with a group.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name), q.level} }
