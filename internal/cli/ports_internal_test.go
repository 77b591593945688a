package cli

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// held is a port that another process has, as it seems.
func held(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestAwaitPortsOfOneThatEnds(t *testing.T) {
	l := held(t)
	told := make(chan struct{})
	log := slog.New(slog.NewTextHandler(writer(func(b []byte) {
		if !strings.Contains(string(b), l.Addr().String()) {
			t.Errorf("the log says %s", b)
		}
		close(told) // once
	}), nil))
	done := make(chan error, 1)
	go func() { done <- awaitPorts(t.Context(), []string{"127.0.0.1:0", l.Addr().String()}, time.Minute, log) }()
	<-told
	select {
	case err := <-done:
		t.Fatalf("it does not wait: %v", err)
	default:
	}
	_ = l.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAwaitPortsOfOneThatStays(t *testing.T) {
	l := held(t)
	err := awaitPorts(t.Context(), []string{l.Addr().String()}, 100*time.Millisecond, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "--health-probe-port") {
		t.Errorf("got %v", err)
	}
}

// writer is an io.Writer.
type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}
