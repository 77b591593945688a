package liveness

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"

	core "github.com/barelb/barelb/internal/core/liveness"
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
	// forgetAfter is how long a speaker that is no member is known.
	forgetAfter = 10 * time.Minute
	// findTimeout bounds the wait for the others' addresses.
	findTimeout = 2 * time.Second
)

// peers are the members at one moment. They are never changed.
type peers struct {
	list  *memberlist.Memberlist // nil before it is made; stays the same
	nodes map[string]*memberlist.Node
	addrs map[string]string // where each speaker was last, those that are no members too
	left  map[string]time.Time
}

// addrOf returns where the speaker of a node is, or was last.
func (r *Runner) addrOf(node string) (string, bool) {
	addr, ok := r.peers.Load().addrs[node]
	return addr, ok
}

// Run takes part until ctx ends; then it leaves, so that others take over at once, unless
// it is to come back (see SetPhase). It fails at once if it cannot open its sockets.
func (r *Runner) Run(ctx context.Context) error {
	w, err := openWire(r)
	if err != nil {
		return err
	}
	defer w.close()
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	port, err := listen(r.cfg.BindAddr, r.cfg.BindPort, r.cfg.Log, func(c net.Conn) { r.accept(run, c) }, func() { r.metrics.drop(dropSessions) })
	if err != nil {
		return fmt.Errorf("listen on %s port %d for other speakers: %w", r.cfg.BindAddr, r.cfg.BindPort, err)
	}
	list, err := r.create(port)
	if err != nil {
		_ = port.Shutdown()
		return err
	}
	r.peers.Store(&peers{list: list})
	g, run2 := errgroup.WithContext(run)
	g.Go(func() error { return r.loop(run2, w) })
	g.Go(func() error { r.tell(run2); return nil })
	for range senders {
		g.Go(func() error { r.send(run2); return nil })
	}
	g.Go(func() error { r.follow(run2, list); return nil })
	select {
	case <-ctx.Done():
		r.bye(list)
	case <-run2.Done(): // a part has failed
	}
	stop()
	w.close()
	err = g.Wait()
	_ = list.Shutdown() // and the port with it
	r.tasks.Wait()
	r.settled.Store(false)
	return err
}

// bye tells the others the last news, and that we leave if that is so.
func (r *Runner) bye(list *memberlist.Memberlist) {
	r.tellNow()
	pure := true
	for _, n := range r.roll.members() {
		pure = pure && speaksBareLB(n)
	}
	if pure && r.book.own().Phase == core.Restarting {
		return
	}
	if err := list.Leave(leaveTimeout); err != nil {
		r.cfg.Log.Warn("leave the other speakers", "err", err)
	}
}

// follow publishes who is a member until ctx ends.
func (r *Runner) follow(ctx context.Context, list *memberlist.Memberlist) {
	// Nobody is called alive, not even us, until others could answer.
	joined := make(chan struct{})
	var joiner sync.WaitGroup
	joiner.Go(func() { r.keepJoining(ctx, list, joined) })
	defer joiner.Wait()
	age := time.NewTicker(time.Minute) // for those to be forgotten
	defer age.Stop()
	for ready := (<-chan struct{})(joined); ; {
		select {
		case <-ctx.Done():
			return
		case <-ready:
			ready = nil
		case <-age.C:
		case <-r.roll.changed:
		}
		r.refresh()
		if ready == nil {
			r.publish()
		}
	}
}

// refresh finds out who the members are, and tells those that are new how far we are.
func (r *Runner) refresh() *peers {
	r.refreshing.Lock()
	defer r.refreshing.Unlock()
	old, now := r.peers.Load(), time.Now()
	p := &peers{list: old.list, nodes: r.roll.members(), addrs: map[string]string{}, left: map[string]time.Time{}}
	living := map[string]bool{}
	for name, n := range p.nodes {
		p.addrs[name], living[name] = n.Address(), true
	}
	for name := range old.addrs {
		if living[name] {
			continue
		}
		left, before := old.left[name]
		if !before {
			left = now
		}
		if now.Sub(left) < forgetAfter {
			p.addrs[name], p.left[name] = old.addrs[name], left
		}
	}
	r.peers.Store(p)
	r.book.setMembers(living)
	head := append([]byte{userDelta}, r.book.head()...)
	for name := range p.nodes {
		if old.nodes[name] == nil || !speaksBareLB(old.nodes[name]) {
			r.sendTo(p, name, head)
		}
	}
	if !maps.Equal(old.nodes, p.nodes) || !maps.Equal(old.addrs, p.addrs) {
		signal(r.members)
	}
	return p
}

// keepJoining tries again and again to reach speakers that are not members, until
// ctx ends. It closes joined when we are in touch, or there is nobody to be.
func (r *Runner) keepJoining(ctx context.Context, list *memberlist.Memberlist, joined chan<- struct{}) {
	deadline := time.Now().Add(firstJoin)
	tick := time.NewTicker(joinInterval)
	defer tick.Stop()
	for ready := false; ; {
		inTouch := r.join(ctx, list)
		if !ready && (inTouch || time.Now().After(deadline)) {
			ready = true
			close(joined)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case at := <-r.strangers:
			if _, err := list.Join([]string{at}); err != nil {
				r.cfg.Log.DebugContext(ctx, "speaker that knows us does not answer", "addr", at, "err", err)
			}
		}
	}
}

// join tries to reach speakers that are not members. It reports whether we are in
// touch with another one, or know that there is none.
func (r *Runner) join(ctx context.Context, list *memberlist.Memberlist) bool {
	find, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	pods, err := r.cfg.Speakers(find)
	if err != nil {
		if ctx.Err() == nil && !r.lost {
			r.cfg.Log.Warn("find other speakers", "err", err)
			r.lost = true // and is told once
		}
		return list.NumMembers() > 1 // they may have found us
	}
	r.lost = false
	delete(pods, r.cfg.NodeName)
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
		at := netip.AddrPortFrom(addr, uint16(r.cfg.BindPort)).String()
		if _, err := list.Join([]string{at}); err != nil {
			r.cfg.Log.Debug("speaker does not answer", "addr", at, "err", err)
			continue
		}
		inTouch = true
	}
	return inTouch
}

// publish makes those alive who are members now.
func (r *Runner) publish() {
	now := map[string]bool{}
	for name := range r.peers.Load().nodes {
		now[name] = true
	}
	before := r.Alive()
	if maps.Equal(before, now) {
		return
	}
	for name := range now {
		if !before[name] {
			r.cfg.Log.Info("speaker is alive", "node", name)
		}
	}
	for name := range before {
		if !now[name] {
			r.cfg.Log.Info("speaker is gone", "node", name)
		}
	}
	r.alive.Store(&now)
	signal(r.members)
	signal(r.changed)
}

// roll is who the members are. memberlist calls its methods with its own lock held, so
// they must not block; what they are given may be read only then.
type roll struct {
	mu      sync.Mutex
	nodes   map[string]*memberlist.Node // copies, which are never changed
	changed chan struct{}
}

func newRoll() *roll {
	return &roll{nodes: map[string]*memberlist.Node{}, changed: make(chan struct{}, 1)}
}

// NotifyJoin implements memberlist.EventDelegate, as the other methods do.
func (r *roll) NotifyJoin(n *memberlist.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := *n
	c.Addr, c.Meta = slices.Clone(n.Addr), slices.Clone(n.Meta)
	r.nodes[n.Name] = &c
	signal(r.changed)
}

// NotifyLeave tells of a member that left or died.
func (r *roll) NotifyLeave(n *memberlist.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nodes, n.Name)
	signal(r.changed)
}

// NotifyUpdate tells of a member that is of another kind now.
func (r *roll) NotifyUpdate(n *memberlist.Node) { r.NotifyJoin(n) }

func (r *roll) members() map[string]*memberlist.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.nodes)
}

// create makes this process a member, of a company of its own yet.
func (r *Runner) create(port *transport) (*memberlist.Memberlist, error) {
	c, err := r.options()
	if err != nil {
		return nil, err
	}
	c.Transport, c.Events, c.Delegate = port, r.roll, delegate{r}
	list, err := memberlist.Create(c)
	if err != nil {
		return nil, fmt.Errorf("meet other speakers: %w", err)
	}
	return list, nil
}

func (r *Runner) options() (*memberlist.Config, error) {
	c := memberlist.DefaultLANConfig()
	if r.cfg.WAN {
		c = memberlist.DefaultWANConfig()
	}
	c.TCPTimeout = joinInterval // a node that is down must not hold up joining others
	// To compress costs 64 KiB of memory for each message, and a broadcast of ours is one
	// for each member. Whoever gets it takes it either way.
	c.EnableCompression = false
	if err := tune(c, r.cfg.Tuning); err != nil {
		return nil, err
	}
	c.Name = r.cfg.NodeName
	c.BindAddr, c.BindPort = r.cfg.BindAddr, r.cfg.BindPort
	c.AdvertisePort = r.cfg.BindPort
	c.Logger = slog.NewLogLogger(r.cfg.Log.Handler(), slog.LevelDebug)
	if len(r.cfg.Secret) == 0 {
		r.cfg.Log.Warn("no secret: what speakers tell each other is neither encrypted nor authenticated")
	} else {
		c.SecretKey = Key(r.cfg.Secret)
	}
	return c, nil
}

// SecretTag tells the secrets of speakers apart; it is "none" for none. It is 16 bits, which say next
// to nothing of the secret.
func (r *Runner) SecretTag() string {
	if len(r.cfg.Secret) == 0 {
		return "none"
	}
	mac := hmac.New(sha256.New, Key(r.cfg.Secret))
	mac.Write([]byte("barelb liveness tag"))
	return hex.EncodeToString(mac.Sum(nil)[:2])
}

// Key derives the AES-256 key from the shared secret as MetalLB does: the first
// 32 bytes of the secret followed by the SHA-256 of nothing.
func Key(secret []byte) []byte {
	empty := sha256.Sum256(nil)
	return slices.Concat(secret, empty[:])[:sha256.Size]
}
