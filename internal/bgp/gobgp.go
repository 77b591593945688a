package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// start makes the BGP server, without the peer.
func (s *session) start() error {
	gobgp := server.NewBgpServer(server.LoggerOption(slog.New(observer{s}), nil))
	go gobgp.Serve()
	s.server = gobgp
	id := routerID(s.peer, s.cfg.NodeName, s.cfg.NodeAddrs())
	// StopBgp waits for the server, so each error below leaves it stopped.
	fail := func(doing string, err error) error {
		gobgp.Stop()
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := gobgp.StartBgp(s.life, &api.StartBgpRequest{Global: &api.Global{
		Asn:        s.peer.LocalASN,
		RouterId:   id.String(),
		ListenPort: -1,             // never listen
		Families:   []uint32{0, 1}, // tables for IPv4 and IPv6 unicast alone
	}}); err != nil {
		return fail("start bgp with router ID "+id.String(), err)
	}
	if err := acceptOnlyOwn(s.life, gobgp); err != nil {
		return fail("reject routes of the router", err)
	}
	// The callback hands on and returns: GoBGP must not be called from within.
	if err := gobgp.WatchEvent(s.life, server.WatchEventMessageCallbacks{
		OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
			if e.Type != apiutil.PEER_EVENT_STATE {
				return
			}
			st := e.Peer.State
			select {
			case s.inbox <- event{st.SessionState, st.DisconnectMessage, st.PeerASN, st.RemoteCap}:
			case <-s.life.Done():
			}
		},
	}, server.WatchPeer()); err != nil {
		return fail("watch the session", err)
	}
	return nil
}

// acceptOnlyOwn has GoBGP take no route but those that it is told by us: to its
// import policy, they are as good as any that come from a router.
func acceptOnlyOwn(ctx context.Context, gobgp *server.BgpServer) error {
	own := &api.Policy{Name: "own", Statements: []*api.Statement{{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	if err := gobgp.AddPolicy(ctx, &api.AddPolicyRequest{Policy: own}); err != nil {
		return fmt.Errorf("add policy: %w", err)
	}
	if err := gobgp.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Direction:     api.PolicyDirection_POLICY_DIRECTION_IMPORT,
		Policies:      []*api.Policy{own},
		DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
	}}); err != nil {
		return fmt.Errorf("assign policy: %w", err)
	}
	return nil
}

// connect hands the peer to GoBGP, which then tries to connect until it is removed.
func (s *session) connect() {
	found, err := findLocal(s.peer, s.cfg.NodeAddrs())
	if err == nil {
		s.local = found
		err = s.server.AddPeer(s.life, &api.AddPeerRequest{Peer: neighbor(s.peer, found.addr)})
	}
	if err != nil {
		s.problem = err.Error()
		s.wait()
		return
	}
	s.counting.Lock()
	defer s.counting.Unlock()
	s.added = true
}

// remove takes the peer out of GoBGP, which closes its connection.
func (s *session) remove() {
	s.counting.Lock()
	defer s.counting.Unlock()
	if !s.added {
		return
	}
	s.past += s.sentNow()
	s.added = false
	if err := s.server.DeletePeer(s.life, &api.DeletePeerRequest{Address: s.peer.Addr.String()}); err != nil {
		s.log.Error("bgp peer cannot be removed", "err", err)
	}
}

// updates returns how many UPDATE messages have been sent in the session's life.
// Any goroutine may call it.
func (s *session) updates() uint64 {
	s.counting.Lock()
	defer s.counting.Unlock()
	return s.past + s.sentNow()
}

// sentNow returns how many UPDATEs have been sent since the peer was added, for
// GoBGP forgets them with it. The lock on counting must be held.
func (s *session) sentNow() uint64 {
	if !s.added {
		return 0
	}
	return s.ask().GetState().GetMessages().GetSent().GetUpdate()
}

// confirm waits until GoBGP sends changes of routes to the session: it reports the
// session to be established a moment before.
func (s *session) confirm() bool {
	const attempts, pause = 100, time.Millisecond
	for range attempts {
		if s.ask().GetState().GetSessionState() == api.PeerState_SESSION_STATE_ESTABLISHED {
			return true
		}
		select {
		case <-s.life.Done():
			return false
		case <-time.After(pause):
		}
	}
	return false
}

// ask returns what GoBGP knows of the peer; nil if it does not have it.
func (s *session) ask() *api.Peer {
	var peer *api.Peer
	// It fails when the server has stopped: then there is nothing to know.
	_ = s.server.ListPeer(s.life, &api.ListPeerRequest{}, func(p *api.Peer) { peer = p })
	return peer
}
