package kube

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
)

// tries is a transport that notes when it is asked, and fails until it is up.
type tries struct {
	began time.Time

	mu sync.Mutex
	at []time.Duration
	up bool
}

// seen is when it was asked so far.
func (tr *tries) seen() []time.Duration {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.at)
}

func (tr *tries) RoundTrip(*http.Request) (*http.Response, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.at = append(tr.at, time.Since(tr.began))
	if tr.up {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	}
	return nil, errors.New("no route to host")
}

// watchVia has a watch try, and returns what it ends with.
func watchVia(t *testing.T, tr *tries) (*connection, <-chan error) {
	t.Helper()
	c, err := newConnection(&rest.Config{Host: "https://192.0.2.1"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	tr.began = time.Now()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.probe, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		resp, err := patient{c: c, next: tr}.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		ended <- err
	}()
	return c, ended
}

func TestRetryEndsThePausesOfWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr tries
		c, ended := watchVia(t, &tr)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		at := tr.seen()
		for i := 1; i < len(at); i++ {
			least := min(firstPause<<(i-1), longestPause)
			if got := at[i] - at[i-1]; got < least || got > least*3/2 {
				t.Errorf("pause %d: got %s, want %s to %s", i, got, least, least*3/2)
			}
		}
		n := len(at)
		c.retry() // the first packets may be lost still
		synctest.Wait()
		if at = tr.seen(); len(at) != n+1 {
			t.Fatalf("%d tries after Retry, want %d", len(at), n+1)
		}
		tr.mu.Lock()
		tr.up = true
		tr.mu.Unlock()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if at = tr.seen(); at[n+1]-at[n] > firstPause*3/2 {
			t.Errorf("the pause after Retry is %s, want that of the first time", at[n+1]-at[n])
		}
	})
}

func TestWatchesTryForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr tries
		_, ended := watchVia(t, &tr)
		if err := <-ended; err == nil || time.Since(tr.began) != tryTime {
			t.Errorf("got %v after %s, want an error after %s", err, time.Since(tr.began), tryTime)
		}
	})
}

func TestWatchesEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := newConnection(&rest.Config{Host: "https://192.0.2.1"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.probe, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		resp, err := patient{c: c, next: &tries{}}.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if err == nil || time.Since(began) != time.Minute {
			t.Errorf("got %v after %s, want an error after a minute", err, time.Since(began))
		}
	})
}
