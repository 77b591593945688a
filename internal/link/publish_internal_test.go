package link

import (
	"log/slog"
	"testing"
)

// White box: the kernel gives no way to list twice without a change.
func TestPublishWakesOnlyForNews(t *testing.T) {
	w := New(slog.New(slog.DiscardHandler))
	closed := func(ch <-chan struct{}) bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	}
	first := w.Changed()
	w.publish(Snapshot{})
	if !closed(first) {
		t.Error("the first listing is news, even if it is empty")
	}
	second := w.Changed()
	w.publish(Snapshot{})
	if closed(second) {
		t.Error("the same again is no news")
	}
	w.publish(Snapshot{{Name: "eth0"}})
	if !closed(second) || closed(w.Changed()) {
		t.Error("another link is news, once")
	}
}
