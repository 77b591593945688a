package speaker

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

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
	var labels map[string]string
	if i := slices.IndexFunc(s.nodes, func(n lb.Node) bool { return n.Name == s.Options.Node }); i >= 0 {
		labels = s.nodes[i].Labels
	}
	problems := slices.Concat(s.cfg.ProblemsOn(*s.objects, labels), here)
	proxy := s.proxy
	proxy.Doubted = false // no news for users
	if s.reported && slices.Equal(problems, s.problems) && s.proxyShown == proxy {
		return
	}
	known := s.problems
	s.problems, s.reported, s.proxyShown = problems, true, proxy
	s.Metrics.Config(problems, len(config.InvalidAtSpeaker(problems)) > 0)
	for _, p := range config.NewProblems(problems, known) {
		s.Log.Warn("configuration problem", "kind", p.Kind, "name", p.Name, "field", p.Field, "reason", string(p.Reason), "err", p.Message)
	}
	s.State.Set(kube.State{Problems: problems, ProxyWatched: s.proxy.Watched, ProxyDown: s.proxy.Why})
}

// show tells metrics, Events and the log what became of one Service.
func (s *Speaker) show(key lb.Key) {
	v, old := s.planner.Verdict(key), s.shown[key]
	now := shown{}
	if v != nil {
		now = shown{l2: v.L2.Reason, bgp: v.BGP.Reason, addrs: v.Addrs, mute: v.Mute}
	}
	s.showProtocol(key, "layer2", old.l2, now.l2, old.addrs, now.addrs)
	s.showProtocol(key, "bgp", old.bgp, now.bgp, old.addrs, now.addrs)
	if svc := s.services[key]; svc != nil && now.mute && (!old.mute || !slices.Equal(old.addrs, now.addrs)) {
		s.Log.Warn("announced nowhere: none of the links that L2Advertisements name is there", "service", key.String(), "links", v.Links)
		s.Events.ServiceEvent(svc, true, kube.EventAnnounceFailed, kube.AnnounceFailed(s.Options.Node, v.Links))
	}
	if s.shown[key] = now; v == nil {
		delete(s.shown, key)
	}
	if v != nil {
		s.Log.Debug("verdict", "service", key.String(), "layer2", string(v.L2.Reason), "bgp", string(v.BGP.Reason), "owner", v.Owner)
	}
}

// showProtocol says what became of the addresses was, for the reason old, which are now
// the addresses is, for the reason now.
func (s *Speaker) showProtocol(key lb.Key, protocol string, old, now lb.Reason, was, is []netip.Addr) {
	s.Announced.moved(protocol, old, now)
	same := old == now && slices.Equal(was, is)
	stopped, started := old == lb.Announced && !same, now == lb.Announced && !same
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
