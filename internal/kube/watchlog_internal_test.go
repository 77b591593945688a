package kube

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestWatchErrorsAreToldOnce(t *testing.T) {
	var text bytes.Buffer
	w := newWatchLog(slog.New(slog.NewTextHandler(&text, nil)))
	now := noon
	w.now = func() time.Time { return now }
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no right"))
	warnings := func(want int, errs ...error) {
		t.Helper()
		text.Reset()
		for _, err := range errs {
			w.tell(t.Context(), nil, err)
		}
		if got := strings.Count(text.String(), "level=WARN"); got != want {
			t.Errorf("%d warnings, want %d: %s", got, want, text.String())
		}
	}
	warnings(0, io.EOF, apierrors.NewResourceExpired("x"))
	warnings(1, refused, refused, io.ErrUnexpectedEOF, context.DeadlineExceeded)
	if !strings.Contains(text.String(), "cannot be reached") {
		t.Errorf("it says %s", text.String())
	}
	warnings(1, forbidden, refused, forbidden)
	if !strings.Contains(text.String(), "no right") {
		t.Errorf("it says %s", text.String())
	}
	now = now.Add(sayAgain)
	warnings(2, refused, forbidden, refused, forbidden)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	text.Reset()
	now = now.Add(sayAgain)
	w.tell(ended, nil, refused)
	if text.Len() > 0 {
		t.Errorf("at the end: %s", text.String())
	}
}
