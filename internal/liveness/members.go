// Package liveness tells which speakers are alive.
//
// Membership is hashicorp/memberlist's, with MetalLB's parameters: the same port,
// node names as member names, and the same key, so that speakers of both see each
// other during a migration.
package liveness

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// joinInterval is the time between two attempts to reach speakers that are not
	// members. A node whose link comes back is no member: how soon it is one
	// again decides how long two nodes claim one address.
	joinInterval = time.Second
	// joinBatch bounds the attempts of one round.
	joinBatch = 10
	// leaveTimeout bounds the wait for our farewell to be heard.
	leaveTimeout = time.Second
	// firstJoin bounds the time in which a starting speaker that reaches nobody
	// claims nothing.
	firstJoin = 5 * time.Second
	// findTimeout bounds the wait for the others' addresses.
	findTimeout = 2 * time.Second
)

// Config says who we are and how to find the others.
type Config struct {
	NodeName string
	BindAddr string // an address of this node
	BindPort int
	Secret   []byte // "" gossips in clear text
	WAN      bool   // slower timers, for nodes that are far apart
	Log      *slog.Logger
	// Speakers returns the addresses of all speakers by the names of their nodes.
	Speakers func(context.Context) (map[string]netip.Addr, error)
}

// Members is the membership of this speaker. Use New, and run it.
type Members struct {
	cfg     Config
	changed chan struct{}
	alive   atomic.Pointer[map[string]bool]
	lost    bool // the others could not be found; owned by keepJoining
}

// New returns a membership that is not joined yet.
func New(cfg Config) *Members {
	m := &Members{cfg: cfg, changed: make(chan struct{}, 1)}
	m.alive.Store(&map[string]bool{})
	return m
}

// Alive returns the nodes whose speakers live; nobody until we tried to join. The
// map must not be changed.
func (m *Members) Alive() map[string]bool { return *m.alive.Load() }

// Changed signals that Alive changed.
func (m *Members) Changed() <-chan struct{} { return m.changed }

// Run takes part until ctx ends, then leaves, so that others take over at once.
func (m *Members) Run(ctx context.Context) error {
	changed := make(events, 1)
	list, err := memberlist.Create(m.options(changed))
	if err != nil {
		return fmt.Errorf("listen on %s port %d for other speakers: %w", m.cfg.BindAddr, m.cfg.BindPort, err)
	}
	defer func() { _ = list.Shutdown() }()
	// Nobody is called alive, not even us, until others could answer.
	joined := make(chan struct{})
	var joiner sync.WaitGroup
	joiner.Go(func() { m.keepJoining(ctx, list, joined) })
	defer joiner.Wait()
	for ready := (<-chan struct{})(joined); ; {
		select {
		case <-ctx.Done():
			if err := list.Leave(leaveTimeout); err != nil {
				m.cfg.Log.Warn("leave the other speakers", "err", err)
			}
			return nil
		case <-ready:
			ready = nil
		case <-changed:
		}
		if ready == nil {
			m.publish(list)
		}
	}
}

// keepJoining tries again and again to reach speakers that are not members, until
// ctx ends. It closes joined when we are in touch, or there is nobody to be.
func (m *Members) keepJoining(ctx context.Context, list *memberlist.Memberlist, joined chan<- struct{}) {
	deadline := time.Now().Add(firstJoin)
	tick := time.NewTicker(joinInterval)
	defer tick.Stop()
	for ready := false; ; {
		inTouch := m.join(ctx, list)
		if !ready && (inTouch || time.Now().After(deadline)) {
			ready = true
			close(joined)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// join tries to reach speakers that are not members. It reports whether we are in
// touch with another one, or know that there is none.
func (m *Members) join(ctx context.Context, list *memberlist.Memberlist) bool {
	find, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	pods, err := m.cfg.Speakers(find)
	if err != nil {
		if ctx.Err() == nil && !m.lost {
			m.cfg.Log.Warn("find other speakers", "err", err)
			m.lost = true // and is told once
		}
		return list.NumMembers() > 1 // they may have found us
	}
	m.lost = false
	delete(pods, m.cfg.NodeName)
	if len(pods) == 0 {
		return true
	}
	for _, n := range list.Members() {
		delete(pods, n.Name)
	}
	inTouch := list.NumMembers() > 1
	missing := slices.Collect(maps.Values(pods)) // in random order
	for _, addr := range missing[:min(joinBatch, len(missing))] {
		if ctx.Err() != nil {
			break
		}
		at := netip.AddrPortFrom(addr, uint16(m.cfg.BindPort)).String()
		if _, err := list.Join([]string{at}); err != nil {
			m.cfg.Log.Debug("speaker does not answer", "addr", at, "err", err)
			continue
		}
		inTouch = true
	}
	return inTouch
}

func (m *Members) publish(list *memberlist.Memberlist) {
	now := map[string]bool{}
	for _, n := range list.Members() {
		now[n.Name] = true
	}
	before := m.Alive()
	if maps.Equal(before, now) {
		return
	}
	for name := range now {
		if !before[name] {
			m.cfg.Log.Info("speaker is alive", "node", name)
		}
	}
	for name := range before {
		if !now[name] {
			m.cfg.Log.Info("speaker is gone", "node", name)
		}
	}
	m.alive.Store(&now)
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// events signals that the members changed. memberlist calls its methods with its
// own lock held, which reading the members needs too: they must not block.
type events chan struct{}

// NotifyJoin implements memberlist.EventDelegate, as the other methods do.
func (e events) NotifyJoin(*memberlist.Node) { e.signal() }

// NotifyLeave tells of a member that left or died.
func (e events) NotifyLeave(*memberlist.Node) { e.signal() }

// NotifyUpdate tells of a change that is none to us.
func (e events) NotifyUpdate(*memberlist.Node) {}

func (e events) signal() {
	select {
	case e <- struct{}{}:
	default:
	}
}

func (m *Members) options(changed events) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	if m.cfg.WAN {
		c = memberlist.DefaultWANConfig()
	}
	c.Name = m.cfg.NodeName
	c.BindAddr, c.BindPort = m.cfg.BindAddr, m.cfg.BindPort
	c.AdvertisePort = m.cfg.BindPort
	c.TCPTimeout = joinInterval // a node that is down must not hold up joining others
	c.Events = changed
	c.Logger = slog.NewLogLogger(m.cfg.Log.Handler(), slog.LevelDebug)
	if len(m.cfg.Secret) == 0 {
		m.cfg.Log.Warn("no secret: what speakers tell each other is neither encrypted nor authenticated")
	} else {
		c.SecretKey = Key(m.cfg.Secret)
	}
	return c
}

// Key derives the AES-256 key from the shared secret as MetalLB does: the first
// 32 bytes of the secret followed by the SHA-256 of nothing.
func Key(secret []byte) []byte {
	empty := sha256.Sum256(nil)
	return slices.Concat(secret, empty[:])[:sha256.Size]
}
