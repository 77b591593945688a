package kube

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// fakeLease is a Lease without an API server: a process cannot be stopped in the middle
// of its own test.
type fakeLease struct {
	resourcelock.Interface
	now resourcelock.LeaderElectionRecord
}

func (r *fakeLease) Identity() string { return "me" }

func (r *fakeLease) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	return &r.now, nil, nil
}

func (r *fakeLease) Update(_ context.Context, to resourcelock.LeaderElectionRecord) error {
	r.now = to
	return nil
}

func TestLeaseThatIsNotOursAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const duration = 3 * time.Second
		api := &fakeLease{}
		l := &lease{Interface: api}
		renew := func() {
			if err := l.Update(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "me"}); err != nil {
				t.Fatal(err)
			}
		}
		renew()
		ended := make(chan struct{})
		start := time.Now()
		go l.guard(t.Context(), duration, func() { close(ended) })
		<-time.After(2 * time.Second)
		renew()
		<-ended // nobody renews it any more
		if took := time.Since(start); took < 5*time.Second || took > 5*time.Second+2*guardInterval {
			t.Errorf("ended after %s", took)
		}

		// Another has it: that ends it at once, and what is his is not given back.
		renew()
		ended = make(chan struct{})
		go l.guard(t.Context(), duration, func() { close(ended) })
		api.now.HolderIdentity = "other"
		if _, _, err := l.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		<-ended
		if took := time.Since(start); took > 2*guardInterval {
			t.Errorf("ended after %s", took)
		}
		if err := l.Update(t.Context(), resourcelock.LeaderElectionRecord{}); err != nil || api.now.HolderIdentity != "other" {
			t.Errorf("given back: %v, holder %q", err, api.now.HolderIdentity)
		}
	})
}
