package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
)

const (
	// leaseName is the Lease that the controller at work holds.
	leaseName = "barelb-controller"

	// guardInterval is how late we may notice that the Lease is not ours any more.
	guardInterval = 50 * time.Millisecond

	catchUpPage  = 500
	catchUpPoll  = 20 * time.Millisecond
	catchUpLimit = 30 * time.Second
)

// LeadOptions say how to become the one that is at work.
type LeadOptions struct {
	Identity string // of this process among the candidates
	// Duration is how long a leader that is not heard of stays the leader. It renews
	// its Lease six times in that time.
	Duration time.Duration
	// Standby is called when somebody else is found to be the leader.
	Standby func(leader string)
}

// Term is what a leader does, until ctx ends because it is not the leader any more; it
// must return soon then. held reports whether it is the leader at this moment, for all
// that it can know: of time in which it did not run, it learns here first.
type Term func(ctx context.Context, held func() bool) error

// Lead runs term whenever this process is the leader, until ctx ends. An error of term
// ends Lead.
func (c *Cluster) Lead(ctx context.Context, opts LeadOptions, term Term) error {
	cfg := rest.CopyConfig(c.rest)
	cfg.Timeout = opts.Duration / 3
	leases, err := coordinationv1client.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client of leases: %w", err)
	}
	for ctx.Err() == nil {
		lock := &lease{Interface: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: c.opts.Namespace, Name: leaseName}, Client: leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: opts.Identity},
		}}
		if err := c.campaign(ctx, opts, lock, term); err != nil {
			return err
		}
	}
	return nil
}

// campaign waits for the leadership, runs term, and gives the leadership up.
func (c *Cluster) campaign(ctx context.Context, opts LeadOptions, lock *lease, term Term) error {
	started := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: leaseName, ReleaseOnCancel: true,
		LeaseDuration: opts.Duration, RenewDeadline: opts.Duration * 2 / 3, RetryPeriod: opts.Duration / 6,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { started <- ctx },
			OnStoppedLeading: func() {},
			OnNewLeader: func(leader string) {
				if leader != opts.Identity {
					opts.Standby(leader)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("campaign for the lease: %w", err)
	}
	// The Lease outlives the term, so that nobody else begins before we have ended.
	leaseCtx, release := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		elector.Run(leaseCtx)
	}()
	defer func() {
		release()
		<-ended
	}()
	select {
	case <-ctx.Done():
		return nil
	case leading := <-started:
		termCtx, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(leading, stop)()
		go lock.guard(termCtx, opts.Duration, stop)
		c.opts.Log.Info("leading", "identity", opts.Identity)
		err := term(termCtx, func() bool { return lock.held(opts.Duration) })
		if ctx.Err() == nil {
			c.opts.Log.Warn("not leading any more: the lease was not renewed in time")
		}
		return err
	}
}

// lease is the Lease as the elector uses it. The elector finds out late that another
// has it: one that was asleep goes on for a while when it wakes up. So this looks
// itself at what was written and read.
type lease struct {
	resourcelock.Interface
	mu      sync.Mutex
	renewed time.Time // by us
	holder  string    // as it was read or written last
}

// Get reads the Lease.
func (l *lease) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	r, raw, err := l.Interface.Get(ctx)
	if err == nil {
		l.note(r.HolderIdentity, false)
	}
	return r, raw, err
}

// Create makes the Lease.
func (l *lease) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Create(ctx, r)
	if err == nil {
		l.note(r.HolderIdentity, true)
	}
	return err
}

// Update writes the Lease, unless that would give back what another has by now.
func (l *lease) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	l.mu.Lock()
	others := r.HolderIdentity == "" && l.holder != l.Identity()
	l.mu.Unlock()
	if others {
		return nil
	}
	err := l.Interface.Update(ctx, r)
	if err == nil {
		l.note(r.HolderIdentity, true)
	}
	return err
}

func (l *lease) note(holder string, written bool) { //nolint:revive // or only read
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder = holder; written {
		l.renewed = time.Now()
	}
}

// held reports whether the Lease is ours, for all that we know.
func (l *lease) held(duration time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder == l.Identity() && time.Since(l.renewed) < duration
}

// guard calls stop when the Lease is not ours any more. Of time in which this process
// did not run it learns as soon as it runs.
func (l *lease) guard(ctx context.Context, duration time.Duration, stop func()) {
	tick := time.NewTicker(guardInterval)
	defer tick.Stop()
	for l.held(duration) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	stop()
}

// CatchUp waits until what the caches know of Services and claims is no older than
// what the API server says now: those who gave addresses before us may have died a
// moment ago.
func (c *Cluster) CatchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpLimit)
	defer cancel()
	for _, kind := range []struct {
		of   metav1.TypeMeta
		mine client.Object
		opts []client.ListOption
	}{
		{metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceList"}, &corev1.Service{}, nil},
		{
			metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "AddressClaimList"},
			&v1alpha1.AddressClaim{},
			[]client.ListOption{client.InNamespace(c.opts.Namespace)},
		},
	} {
		list := &metav1.PartialObjectMetadataList{TypeMeta: kind.of}
		for next := "first"; next != ""; next = list.Continue {
			opts := append(kind.opts, client.Limit(catchUpPage), client.Continue(list.Continue))
			if err := c.client.List(ctx, list, opts...); err != nil {
				return fmt.Errorf("list %s: %w", kind.of.Kind, err)
			}
			for i := range list.Items {
				if err := c.awaitVersion(ctx, kind.mine, &list.Items[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// awaitVersion waits until the cache knows o as it is, or newer. scratch is of the
// same kind.
func (c *Cluster) awaitVersion(ctx context.Context, scratch client.Object, o *metav1.PartialObjectMetadata) error {
	key := client.ObjectKeyFromObject(o)
	for {
		err := c.cache.Get(ctx, key, scratch)
		if err == nil && version(scratch) >= version(o) {
			return nil
		}
		if apierrors.IsNotFound(err) && apierrors.IsNotFound(c.client.Get(ctx, key, o)) {
			return nil // it is gone by now
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for news of %s %s: %w", o.Kind, key, ctx.Err())
		case <-time.After(catchUpPoll):
		}
	}
}
