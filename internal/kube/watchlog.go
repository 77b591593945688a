package kube

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	toolscache "k8s.io/client-go/tools/cache"
)

// sayAgain is how long a watch error that was told is not told again.
const sayAgain = 5 * time.Minute

// watchLog tells of watches that end with an error: each error once in a while, for a
// dozen watches try again every few seconds while the API server is away.
type watchLog struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	told map[string]time.Time // when, by the error
}

func newWatchLog(log *slog.Logger) *watchLog {
	return &watchLog{log: log, now: time.Now, told: map[string]time.Time{}}
}

// tell is a cache.WatchErrorHandlerWithContext.
func (w *watchLog) tell(ctx context.Context, _ *toolscache.Reflector, err error) {
	var status apierrors.APIStatus
	answered := errors.As(err, &status)
	what := ""
	if answered {
		what = err.Error()
	}
	switch {
	case expected(ctx, err) || !w.isNews(what):
		w.log.DebugContext(ctx, "watch interrupted", "err", err)
	case answered:
		w.log.WarnContext(ctx, "watch refused", "err", err)
	default:
		w.log.WarnContext(ctx, "the API server cannot be reached: nothing changes here until it can", "err", err)
	}
}

// expected reports whether err is how watches end now and then: a connection that is
// closed in order, or a position that is too old to go on from.
func expected(ctx context.Context, err error) bool {
	//nolint:errorlint // a watch that ends is bare EOF; in another error it is a connection that broke
	return err == io.EOF || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || ctx.Err() != nil
}

// isNews reports whether what was not told lately, and has it told now.
func (w *watchLog) isNews(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	for k, at := range w.told {
		if now.Sub(at) >= sayAgain {
			delete(w.told, k)
		}
	}
	if _, lately := w.told[what]; lately {
		return false
	}
	w.told[what] = now
	return true
}
