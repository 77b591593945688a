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
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
	"github.com/barelb/barelb/internal/kube"
)

// What the speaker needs of the parts around it.
type (
	feed interface {
		Changed() <-chan struct{}
		Ready() <-chan struct{}
		Drain() kube.Delta
	}
	members interface {
		Alive() map[string]bool
		Changed() <-chan struct{}
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
	}
	counters interface {
		Update(err error)
		Config(stale bool)
	}
)

// Deps are the parts that a Speaker works with.
type Deps struct {
	Log     *slog.Logger
	Options plan.Options
	Feed    feed
	Members members // nil: nobody watches who is alive
	L2      announcer[lb.L2]
	BGP     announcer[lb.BGP]
	State   stateWriter
	Status  statusWriter // of what is announced, with its Events; nil: there are Events alone
	Events  eventer
	Metrics counters
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

	services map[lb.Key]*lb.Service
	shown    map[lb.Key]shown // what metrics and Events said last
	problems []config.Problem // what was said last of the configuration
	reported bool             // anything was
	joined   bool             // it is known who lives
	told     bool             // Status was told anything
}

// shown is what the outside was told of one Service.
type shown struct {
	l2, bgp bool
	addrs   []netip.Addr
}

// New returns a Speaker.
func New(d Deps) *Speaker {
	return &Speaker{
		Deps: d, ready: make(chan struct{}), planner: plan.New(d.Options),
		services: map[lb.Key]*lb.Service{}, shown: map[lb.Key]shown{},
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
	var alive <-chan struct{}
	if s.Members != nil {
		alive = s.Members.Changed()
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
		}
	}
}

// step takes what changed, plans, and applies the plan.
func (s *Speaker) step(ctx context.Context, d kube.Delta) error {
	s.take(d)
	desired := s.planner.Plan()
	err := errors.Join(s.L2.Apply(ctx, desired.L2), s.BGP.Apply(ctx, desired.BGP))
	for _, key := range desired.Changed {
		s.show(key)
	}
	s.reportStatus(desired.Changed)
	if d.Objects != nil || d.Nodes != nil {
		s.reportConfig(desired.Problems)
	}
	return err
}

func (s *Speaker) take(d kube.Delta) {
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
		s.planner.SetNodes(d.Nodes)
	}
	if d.Objects != nil {
		s.cfg = config.Parse(*d.Objects, s.cfg)
		s.planner.SetConfig(s.cfg)
	}
	var alive map[string]bool
	if s.Members != nil {
		alive = s.Members.Alive()
		s.planner.SetAlive(alive)
		s.joined = s.joined || len(alive) > 0
	}
	if s.Wire != nil {
		s.Wire.tell(d, s.cfg, alive)
	}
}

// reportStatus hands on what this node announces of the Services that changed: at
// first of all, be there none. It begins once it is known who lives. Until then no
// node owns anything, for some seconds, and what our predecessor has written of its
// addresses would be deleted and written again.
func (s *Speaker) reportStatus(changed []lb.Key) {
	switch {
	case s.Status == nil, s.Members != nil && !s.joined, s.told && len(changed) == 0:
		return
	case !s.told:
		changed = slices.Collect(maps.Keys(s.planner.Verdicts()))
	}
	s.told = true
	now := make(map[lb.Key]kube.Announcing, len(changed))
	for _, key := range changed {
		var a kube.Announcing
		if v, svc := s.planner.Verdict(key), s.services[key]; v != nil && svc != nil {
			a.UID, a.Addrs = svc.UID, v.Addrs
			if v.L2.Reason == lb.Announced {
				a.L2, a.Links = true, v.Links
			}
			if v.BGP.Reason == lb.Announced {
				a.Peers = v.Peers
			}
		}
		now[key] = a
	}
	s.Status.Set(now)
}

// reportConfig publishes what is wrong with the configuration, here.
func (s *Speaker) reportConfig(here []config.Problem) {
	if s.cfg == nil {
		return
	}
	problems := slices.Concat(s.cfg.Problems, here)
	if s.reported && slices.Equal(problems, s.problems) {
		return
	}
	known := s.problems
	s.problems, s.reported = problems, true
	s.Metrics.Config(len(problems) > 0)
	for _, p := range config.NewProblems(problems, known) {
		s.Log.Warn("configuration problem", "kind", p.Kind, "name", p.Name, "field", p.Field, "reason", string(p.Reason), "err", p.Message)
	}
	s.State.Set(kube.State{Problems: problems})
}

// show tells metrics, Events and the log what became of one Service.
func (s *Speaker) show(key lb.Key) {
	v, old := s.planner.Verdict(key), s.shown[key]
	now := shown{}
	if v != nil {
		now = shown{l2: v.L2.Reason == lb.Announced, bgp: v.BGP.Reason == lb.Announced, addrs: v.Addrs}
	}
	moved := !slices.Equal(old.addrs, now.addrs)
	s.showProtocol(key, "layer2", old.l2 && (moved || !now.l2), now.l2 && (moved || !old.l2), old.addrs, now.addrs)
	s.showProtocol(key, "bgp", old.bgp && (moved || !now.bgp), now.bgp && (moved || !old.bgp), old.addrs, now.addrs)
	if s.shown[key] = now; v == nil || !now.l2 && !now.bgp {
		delete(s.shown, key)
	}
	if v != nil {
		s.Log.Debug("verdict", "service", key.String(), "layer2", string(v.L2.Reason), "bgp", string(v.BGP.Reason), "owner", v.Owner)
	}
}

// showProtocol says that announcing stopped for the addresses was, and started
// for the addresses is.
//
//nolint:revive // two flags that are two facts
func (s *Speaker) showProtocol(key lb.Key, protocol string, stopped, started bool, was, is []netip.Addr) {
	if stopped {
		s.Announced.remove(key, protocol, was)
		s.Log.Info("withdrawn", "service", key.String(), "addr", fmt.Sprint(was), "protocol", protocol)
	}
	if !started {
		return
	}
	s.Announced.add(key, protocol, is)
	s.Log.Info("announced", "service", key.String(), "addr", fmt.Sprint(is), "protocol", protocol)
	if svc := s.services[key]; svc != nil && s.Status == nil {
		s.Events.ServiceEvent(svc, false, kube.EventNodeAssigned, kube.NodeAssigned(s.Options.Node, protocol))
	}
}
