package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/config"
)

// Secrets are read, not watched: the right to get one is all that a speaker has.
const (
	secretRefresh = 30 * time.Second
	secretAwaited = 2 * time.Second // the same, while one is missing
	secretTimeout = 5 * time.Second
)

// configFeed collects the configuration objects. Those that name a Secret are
// published together with it, so that a reader never sees the one without the
// other.
type configFeed struct {
	c       *Cluster
	publish func(*config.Objects)
	wake    chan struct{}
	refresh time.Duration            // between two readings of the Secrets
	awaited time.Duration            // the same, while one is missing
	secrets map[string]config.Secret // last read; owned by run
}

func newConfigFeed(c *Cluster, publish func(*config.Objects)) *configFeed {
	return &configFeed{
		c: c, publish: publish, wake: make(chan struct{}, 1), refresh: secretRefresh, awaited: secretAwaited,
		secrets: map[string]config.Secret{},
	}
}

// onUpdate wakes run, unless the change of an object is one of its status alone,
// which the controller writes after each allocation.
func (f *configFeed) onUpdate(was, is any) {
	a, ok := was.(client.Object)
	b, ok2 := is.(client.Object)
	if ok && ok2 && a.GetUID() == b.GetUID() && a.GetGeneration() == b.GetGeneration() && maps.Equal(a.GetLabels(), b.GetLabels()) &&
		a.GetAnnotations()[v1beta1.AnnotationIgnoreOnWire] == b.GetAnnotations()[v1beta1.AnnotationIgnoreOnWire] {
		return
	}
	f.onObject(is, false)
}

func (f *configFeed) onObject(any, bool) {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run publishes the configuration once, calls ready, and publishes it again
// whenever it changes, until ctx ends.
func (f *configFeed) run(ctx context.Context, ready func()) error {
	for first := true; ; first = false {
		select {
		case <-f.wake: // what it tells of is read now
		default:
		}
		objs, err := readConfig(ctx, f.c.cache)
		if err != nil {
			return unlessEnded(ctx, fmt.Errorf("list configuration objects: %w", err))
		}
		objs.Namespace = f.c.opts.Namespace
		f.secrets = f.readSecrets(ctx, objs)
		objs.Secrets = f.secrets
		f.publish(objs)
		if first {
			ready()
		}
		if !f.waitForNews(ctx, objs) {
			return nil
		}
	}
}

// unlessEnded returns err, or nil if it is because ctx has ended.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// waitForNews waits until the configuration objects change, or a Secret that objs
// refer to. It returns false when ctx ends.
func (f *configFeed) waitForNews(ctx context.Context, objs *config.Objects) bool {
	pause := f.refresh
	if slices.ContainsFunc(objs.Peers, func(p config.BGPPeer) bool {
		_, has := f.secrets[p.PasswordSecret]
		return p.PasswordSecret != "" && !has
	}) {
		pause = f.awaited
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-f.wake:
			return true
		case <-tick.C:
			if !maps.Equal(f.readSecrets(ctx, objs), f.secrets) {
				return true
			}
		}
	}
}

// readConfig lists all configuration objects.
func readConfig(ctx context.Context, from client.Reader, opts ...client.ListOption) (*config.Objects, error) {
	var (
		pools       v1beta1.IPAddressPoolList
		l2          v1beta1.L2AdvertisementList
		bgp         v1beta1.BGPAdvertisementList
		peers       v1beta2.BGPPeerList
		profiles    v1beta1.BFDProfileList
		communities v1beta1.CommunityList
	)
	for _, list := range []client.ObjectList{&pools, &l2, &bgp, &peers, &profiles, &communities} {
		if err := from.List(ctx, list, opts...); err != nil {
			return nil, err
		}
	}
	objs := &config.Objects{}
	for i := range pools.Items {
		objs.Pools = append(objs.Pools, convertPool(&pools.Items[i]))
	}
	for i := range l2.Items {
		objs.L2 = append(objs.L2, convertL2Advertisement(&l2.Items[i]))
	}
	for i := range bgp.Items {
		objs.BGP = append(objs.BGP, convertBGPAdvertisement(&bgp.Items[i]))
	}
	for i := range peers.Items {
		objs.Peers = append(objs.Peers, convertPeer(&peers.Items[i]))
	}
	for i := range profiles.Items {
		objs.BFDProfiles = append(objs.BFDProfiles, convertBFDProfile(&profiles.Items[i]))
	}
	for i := range communities.Items {
		objs.Communities = append(objs.Communities, convertCommunity(&communities.Items[i]))
	}
	return objs, nil
}

// readSecrets reads the Secrets that peers refer to. One that cannot be read now,
// for any reason but that it is gone, is as it was.
func (f *configFeed) readSecrets(ctx context.Context, objs *config.Objects) map[string]config.Secret {
	now := map[string]config.Secret{}
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	for _, p := range objs.Peers {
		name := p.PasswordSecret
		if _, done := now[name]; name == "" || done {
			continue
		}
		var s corev1.Secret
		err := f.c.client.Get(ctx, client.ObjectKey{Namespace: f.c.opts.Namespace, Name: name}, &s)
		switch {
		case err == nil:
			now[name] = convertSecret(&s)
		case !apierrors.IsNotFound(err):
			f.c.opts.Log.Warn("read secret", "secret", name, "err", err)
			if last, had := f.secrets[name]; had {
				now[name] = last
			}
		}
	}
	return now
}
