package wire

import (
	"net/netip"
	"time"
)

const (
	// memory is how long a MAC counts as that of a node after the node has gone or
	// has another one, and how long what was learned of a node is not asked again.
	memory = 10 * time.Minute
	// peerTries is how often a node is asked for its MAC, peerWait how long it may
	// take to answer.
	peerTries = 2
	peerWait  = time.Second
)

// neighbours knows the MACs of the cluster's nodes on the links of this one. It learns
// from whatever they send, and asks all of them when somebody is to be told from them.
type neighbours struct {
	byAddr map[netip.Addr]*neighbour
	recent map[MAC]time.Time // until when they count though nobody has them now
}

type neighbour struct {
	Peer
	mac   MAC       // zero if it is not known
	heard time.Time // when it was last learned
	tries int
	due   time.Time // of the next try, or of giving up
}

func newNeighbours() neighbours {
	return neighbours{byAddr: map[netip.Addr]*neighbour{}, recent: map[MAC]time.Time{}}
}

// set replaces the nodes.
func (n *neighbours) set(peers []Peer, now time.Time) {
	old := n.byAddr
	n.byAddr = make(map[netip.Addr]*neighbour, len(peers))
	for _, p := range peers {
		have := old[p.Addr]
		if have == nil || have.Peer != p {
			have = &neighbour{Peer: p}
		}
		n.byAddr[p.Addr] = have
	}
	for addr, was := range old {
		if n.byAddr[addr] != was {
			n.retire(was.mac, now)
		}
	}
	for mac, until := range n.recent {
		if !now.Before(until) {
			delete(n.recent, mac)
		}
	}
}

func (n *neighbours) retire(mac MAC, now time.Time) {
	if mac != (MAC{}) {
		n.recent[mac] = now.Add(memory)
	}
}

// learn takes what a claim says about a node.
func (n *neighbours) learn(c Claim, now time.Time) {
	p := n.byAddr[c.Addr]
	if p == nil || p.Link != c.Link {
		return
	}
	if p.mac != c.MAC {
		n.retire(p.mac, now)
	}
	p.mac, p.heard, p.tries = c.MAC, now, 0
}

// has reports whether mac is that of a node, or was a short while ago.
func (n *neighbours) has(mac MAC, now time.Time) bool {
	if until, ok := n.recent[mac]; ok && now.Before(until) {
		return true
	}
	for _, p := range n.byAddr {
		if p.mac == mac {
			return true
		}
	}
	return false
}

// settled reports whether asking p would teach nothing new.
func (p *neighbour) settled(now time.Time) bool {
	if p.mac != (MAC{}) && now.Sub(p.heard) < memory {
		return true
	}
	return p.tries >= peerTries && !now.Before(p.due) && now.Sub(p.due) < memory
}

// known reports whether all nodes on a link have told their MACs, or do not answer.
func (n *neighbours) known(link int, now time.Time) bool {
	for _, p := range n.byAddr {
		if p.Link == link && !p.settled(now) {
			return false
		}
	}
	return true
}

// ask returns the packet that asks a node on one of the links for its MAC now, if one
// is to be asked: in the order of their addresses.
func (n *neighbours) ask(on map[int]bool, now time.Time) (Ask, bool) {
	var best *neighbour
	for _, p := range n.byAddr {
		if on[p.Link] && !p.settled(now) && !now.Before(p.due) && (best == nil || p.Addr.Less(best.Addr)) {
			best = p
		}
	}
	if best == nil {
		return Ask{}, false
	}
	if best.tries >= peerTries { // the last attempts are long ago
		best.tries = 0
	}
	best.tries++
	best.due = now.Add(peerWait)
	return Ask{best.Addr, best.Link}, true
}

// deadline returns when a node on one of the links is to be asked again, or given up.
func (n *neighbours) deadline(on map[int]bool, now time.Time) (time.Time, bool) {
	var (
		at  time.Time
		has bool
	)
	for _, p := range n.byAddr {
		if on[p.Link] && !p.settled(now) && (!has || p.due.Before(at)) {
			at, has = p.due, true
		}
	}
	return at, has
}
