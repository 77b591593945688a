package kube

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// claimedInterval is the least time between two Events about one address of one
// Service that somebody else claims.
const claimedInterval = 10 * time.Second

// claimedEvents remembers which Events were recorded lately.
type claimedEvents struct {
	mu   sync.Mutex
	last map[claimed]time.Time
}

type claimed struct {
	addr netip.Addr
	svc  lb.Key
}

// AddressClaimed records the Event AddressClaimedOnWire on a Service: another host
// claims an address of it that this node answers for. w says who was heard where; node,
// which is asked if an Event is recorded, says which node of the cluster that is, or "". Of
// each address and Service it records at most one in 10 s, and returns whether it did.
func (c *Cluster) AddressClaimed(svc *lb.Service, w lb.WireConflict, node func() string) bool {
	if !c.claimed.allow(claimed{w.Addr, svc.Key}, time.Now()) {
		return false
	}
	who, why := "another host", ""
	if n := node(); n != "" {
		who, why = "node "+n, "; the speakers of the two do not hear each other"
	}
	c.ServiceEvent(svc, true, string(lb.AddressClaimedOnWire), fmt.Sprintf(
		"%s claims %s: MAC %s, heard on link %s of node %s, which answers for it%s", who, w.Addr, w.MAC, w.Link, w.Node, why))
	return true
}

// allow reports whether there was none of it lately, and counts this one.
func (e *claimedEvents) allow(what claimed, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, at := range e.last { // few: those of the last seconds
		if now.Sub(at) >= claimedInterval {
			delete(e.last, k)
		}
	}
	if _, lately := e.last[what]; lately {
		return false
	}
	if e.last == nil {
		e.last = map[claimed]time.Time{}
	}
	e.last[what] = now
	return true
}
