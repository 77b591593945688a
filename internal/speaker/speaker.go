// Package speaker is the process on each node that announces addresses.
//
// One goroutine owns the plan: it takes the latest state of everything (Services,
// endpoints, nodes, configuration from Kubernetes; who is alive from the other
// speakers), lets core/plan decide, and hands the full desired state to the two
// announcers. They find out themselves what changed. Without the API server
// nothing changes, and what is announced stays announced.
package speaker

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/handover"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/kubeproxy"
)

// What the speaker needs of the parts around it.
type (
	feed interface {
		Changed() <-chan struct{}
		Ready() <-chan struct{}
		Drain() kube.Delta
	}
	// members is the other speakers: what is known of them, and what they are told.
	members interface { //nolint:interfacebloat // they are one thing
		// View returns what is known of all nodes; nobody is in it until others could answer.
		View() *liveness.View
		// Changed signals that View changed, or that there are claims to drain.
		Changed() <-chan struct{}
		// DrainClaims returns who else claims the addresses of which that changed.
		DrainClaims() map[netip.Addr][]liveness.Claimant
		// Former returns what the speaker before this one claimed, on this node.
		Former() map[netip.Addr]uint32
		// SetClaims says which claims of this node changed.
		SetClaims(changes []liveness.Change)
		SetPhase(p liveness.Phase)
		// SetProxyDown says whether this node's kube-proxy is not healthy.
		SetProxyDown(down bool)
		// Tell delivers a message to the speaker of a node, and returns when it has taken it.
		Tell(ctx context.Context, node string, msg []byte) error
	}
	// proxy is this node's kube-proxy.
	proxy interface {
		State() kubeproxy.State
		Changed() <-chan struct{}
		// Asked is closed when State says more than that nothing is known.
		Asked() <-chan struct{}
	}
	announcer[T any] interface {
		Apply(ctx context.Context, want T) error
	}
	stateWriter interface {
		Set(s kube.State)
	}
	statusWriter interface {
		Set(changed map[lb.Key]kube.Announcing)
	}
	eventer interface {
		ServiceEvent(svc *lb.Service, warning bool, reason, message string)
		// AddressClaimed records that a host outside the cluster claims an address of svc,
		// unless that was recorded lately. It returns whether it did. node says which node of the
		// cluster it is after all, or "".
		AddressClaimed(svc *lb.Service, w lb.WireConflict, node func() string) bool
	}
	counters interface {
		Update(err error)
		Config(problems []config.Problem, invalid bool)
	}
)

// Deps are the parts that a Speaker works with.
type Deps struct {
	Log     *slog.Logger
	Options plan.Options
	Feed    feed
	Members members // nil: nobody watches who is alive
	Proxy   proxy   // nil: nobody watches kube-proxy
	L2      announcer[lb.L2]
	BGP     announcer[lb.BGP]
	State   stateWriter
	Status  statusWriter // of what is announced, with its Events; nil: there are Events alone
	Events  eventer
	Metrics counters
	// Owned returns the Services that this node answered for by Layer 2 as the API server was
	// told last. It is asked once, at the start, if there are addresses that stay with their
	// present owner. nil: that is not known.
	Owned func(context.Context) ([]lb.Key, error)
	// Drain is how long a planned move of an address leaves those who use the former owner
	// with it.
	Drain time.Duration
	// Reassert tells the links again that this node has an address; it does not block. nil
	// does nothing.
	Reassert func(netip.Addr)
	// Neighbours returns the addresses that this node's kernel knows to have a hardware
	// address; nil knows none.
	Neighbours func(mac [6]byte) []netip.Addr
	// Announced counts what this node announces.
	Announced *Announced
	// Wire is told of what the plan learns; nil asks about no addresses.
	Wire *Wire
}

// Speaker plans and announces.
type Speaker struct {
	Deps
	ready   chan struct{}
	planner *plan.Planner
	cfg     *config.Config
	objects *config.Objects // that cfg was made from

	services   map[lb.Key]*lb.Service
	shown      map[lb.Key]shown // what metrics and Events said last
	problems   []config.Problem // what was said last of the configuration
	reported   bool             // anything was
	proxyShown kubeproxy.State  // what was said last of kube-proxy
	joined     bool             // it is known who lives
	told       bool             // Status was told anything

	book    *handover.Book
	routes  *handover.Routes
	claims  map[netip.Addr][]liveness.Claimant // of others
	former  map[netip.Addr]uint32              // of the speaker before this one, while that matters
	owned   map[netip.Addr]bool                // by this node as the API server knew at the start; nil before that was asked
	nodes   []lb.Node
	wants   handover.Wants        // of the last plan
	claimed map[netip.Addr]uint32 // what the others were told that we claim
	view    *liveness.View        // at the last step
	proxy   kubeproxy.State       // of this node, at the last step
	alive   map[string]bool       // whose speakers live, by view
	phase   liveness.Phase        // to tell the others, once the plan is in force

	formerUntil                     time.Time
	seenAt                          time.Time // when this step saw that others live or do not; zero if it saw nothing new
	unreadyAt, handoverAt, routesAt time.Time // when to decide again; zero: not by time
	requests                        chan func()
	foreign                         chan foreign
	answering                       int           // addresses that this node answers for
	changed                         chan struct{} // answering has
}

// shown is what the outside was told of one Service.
type shown struct {
	l2, bgp lb.Reason
	addrs   []netip.Addr
	mute    bool
}

// New returns a Speaker.
func New(d Deps) *Speaker {
	return &Speaker{
		Deps: d, ready: make(chan struct{}), planner: plan.New(d.Options),
		services: map[lb.Key]*lb.Service{}, shown: map[lb.Key]shown{},
		book:   handover.New(handover.Options{Node: d.Options.Node, Drain: d.Drain}),
		routes: handover.NewRoutes(d.Drain),
		claims: map[netip.Addr][]liveness.Claimant{}, phase: liveness.Serving, requests: make(chan func()), foreign: make(chan foreign, 64), changed: make(chan struct{}, 1),
	}
}

// Ready is closed when the first plan is in force.
func (s *Speaker) Ready() <-chan struct{} { return s.ready }

// Run plans until ctx ends. It leaves the announcements as they are: closing them
// is for the announcers, once others know that we leave.
func (s *Speaker) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.Feed.Ready():
	}
	var alive, proxy <-chan struct{}
	if s.Members != nil {
		alive = s.Members.Changed()
	}
	if s.Proxy != nil {
		proxy = s.Proxy.Changed()
		select {
		case <-ctx.Done():
			return nil
		case <-s.Proxy.Asked():
		}
	}
	for first := true; ; first = false {
		err := s.step(ctx, s.Feed.Drain())
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the error is that we were told to stop
		}
		s.Metrics.Update(err)
		if err != nil {
			s.Log.Error("apply plan", "err", err)
		}
		if first {
			close(s.ready)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.Feed.Changed():
		case <-alive:
		case <-proxy:
		case <-s.due():
		case do := <-s.requests:
			do()
		case f := <-s.foreign:
			s.contest(f)
		}
	}
}

// step takes what changed, plans, and applies the plan.
func (s *Speaker) step(ctx context.Context, d kube.Delta) error {
	start := time.Now()
	s.take(ctx, d)
	desired := s.planner.Plan()
	planned := time.Now()
	s.Announced.plan.Observe(planned.Sub(start).Seconds())
	err := errors.Join(s.applyL2(ctx, desired), s.applyBGP(ctx, desired, d.Since))
	s.Announced.apply.Observe(time.Since(planned).Seconds())
	for _, key := range desired.Changed {
		s.show(key)
	}
	s.reportStatus(desired.Changed)
	s.reportConfig(desired.Problems) // a Service may bring two advertisements into conflict
	return err
}

// applyBGP announces the routes that the plan wants, because of what was heard since, and
// for a while those that it gives to others.
func (s *Speaker) applyBGP(ctx context.Context, desired plan.Desired, since time.Time) error {
	before := s.routes.Going()
	var want lb.BGP
	want, s.routesAt = s.routes.Step(time.Now(), desired.BGP, s.planner.Yields)
	if n := s.routes.Going(); n != before {
		s.Log.Info("routes that go to other nodes, and that routers are told to prefer those for", "routes", n, "drain", s.Drain.String())
	}
	want = slices.Clone(want)
	for i := range want {
		want[i].Since = since
	}
	return s.BGP.Apply(ctx, want)
}

// takeProxy takes what is known of the nodes' kube-proxies. What is known of our own is
// told to the others before we act on it: if all fail at once, none shall think that
// others still serve.
func (s *Speaker) takeProxy() {
	down := map[string]bool{}
	if s.view != nil {
		down = s.view.ProxiesDown()
	}
	if s.Proxy == nil {
		s.planner.SetProxiesDown(down)
		return
	}
	s.proxy = s.Proxy.State()
	if s.Members != nil {
		s.Members.SetProxyDown(s.proxy.Doubted)
	}
	delete(down, s.Options.Node)
	if !s.proxy.Healthy {
		down[s.Options.Node] = true
	}
	s.planner.SetProxiesDown(down)
}

func (s *Speaker) take(ctx context.Context, d kube.Delta) {
	for key, svc := range d.Services {
		if svc == nil {
			delete(s.services, key)
			s.planner.SetService(key, nil)
			continue
		}
		s.services[key] = svc
		s.planner.SetService(key, &plan.Service{Service: *svc, Endpoints: d.Endpoints[key]})
	}
	if d.Nodes != nil {
		s.nodes = d.Nodes
		s.planner.SetNodes(d.Nodes)
	}
	if now := time.Now(); d.Nodes != nil || !s.unreadyAt.IsZero() && !now.Before(s.unreadyAt) {
		var unready map[string]bool
		unready, s.unreadyAt = plan.Unready(s.nodes, now, plan.UnreadyGrace)
		s.planner.SetUnready(unready)
	}
	if d.Objects != nil {
		s.cfg, s.objects = config.Parse(*d.Objects, s.cfg), d.Objects
		s.planner.SetConfig(s.cfg)
	}
	if s.owned == nil {
		s.owned = s.readOwned(ctx)
	}
	if s.Members != nil {
		s.takeLiveness()
	}
	s.takeProxy()
	if s.Wire != nil {
		s.Wire.tell(d, s.cfg, s.alive)
	}
}
