package kube

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// speakerMemory is how long a node counts as one with a speaker after its Pod is
	// gone: another one may be there already, which an API server that is away cannot
	// tell.
	speakerMemory = 10 * time.Minute
	// speakerPoll is the time between two looks at whether Pods were read.
	speakerPoll = 100 * time.Millisecond
)

// Speakers returns the addresses of the speakers' Pods by the names of their nodes,
// also of those that were there in the last 10 minutes, while their node exists.
// When the API server is away, that is the list as it was read last. It waits until
// Pods were read once. Until then, what was imported into the Feed has to do: the
// speakers known there, and the InternalIP of every other node.
func (c *Cluster) Speakers(ctx context.Context) (map[string]netip.Addr, error) {
	inf, err := c.informer(ctx, &corev1.Pod{})
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(speakerPoll)
	defer tick.Stop()
	for !inf.HasSynced() {
		if out := c.importedSpeakers(); out != nil {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("list the pods of speakers: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
	now, err := c.listSpeakers(ctx)
	if err != nil {
		return nil, err
	}
	return c.speakers.remember(time.Now(), now, func(node string) bool {
		f := c.feed.Load()
		if f == nil {
			return false
		}
		n, _ := f.node(node)
		return n != nil
	}), nil
}

// listSpeakers lists the speakers' Pods from the cache.
func (c *Cluster) listSpeakers(ctx context.Context) (map[string]netip.Addr, error) {
	var pods corev1.PodList
	if err := c.cache.List(ctx, &pods, client.InNamespace(c.opts.Namespace)); err != nil {
		return nil, fmt.Errorf("list the pods of speakers: %w", err)
	}
	out := map[string]netip.Addr{}
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.DeletionTimestamp != nil || p.Spec.NodeName == "" {
			continue
		}
		if a, err := netip.ParseAddr(p.Status.PodIP); err == nil {
			out[p.Spec.NodeName] = a
		}
	}
	return out, nil
}

// importedSpeakers returns where speakers may be by what was imported, or nil if
// nothing was.
func (c *Cluster) importedSpeakers() map[string]netip.Addr {
	f := c.feed.Load()
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.imported == nil {
		return nil
	}
	out := map[string]netip.Addr{}
	for name, n := range f.imported.nodes {
		if n.Internal.IsValid() {
			out[name] = n.Internal
		}
	}
	maps.Copy(out, f.imported.speakers)
	return out
}

// speakerList remembers where speakers were.
type speakerList struct {
	mu   sync.Mutex
	seen map[string]seenSpeaker // by node
}

type seenSpeaker struct {
	addr netip.Addr
	last time.Time
}

// remember returns present, and those of the nodes that exist where speakers were
// present not long before now.
func (l *speakerList) remember(now time.Time, present map[string]netip.Addr, exists func(node string) bool) map[string]netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string]seenSpeaker{}
	}
	out := make(map[string]netip.Addr, len(present))
	for node, addr := range present {
		out[node], l.seen[node] = addr, seenSpeaker{addr, now}
	}
	for node, s := range l.seen {
		switch {
		case now.Sub(s.last) > speakerMemory:
			delete(l.seen, node)
		case s.last.Before(now) && exists(node):
			out[node] = s.addr
		}
	}
	return out
}

// all returns where speakers are or were.
func (l *speakerList) all() map[string]netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]netip.Addr, len(l.seen))
	for node, s := range l.seen {
		out[node] = s.addr
	}
	return out
}
