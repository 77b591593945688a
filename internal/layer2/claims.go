package layer2

import (
	"net/netip"
	"sync"
	"time"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/wire"
)

const (
	claimPause = 100 * time.Millisecond // between two reports of one address and MAC
	maxClaims  = 256                    // reports in that time, of whatever
)

// Claim is that another station uses an address that this node owns: by any ARP packet
// with it as the sender (RFC 5227 §2.4), by a Neighbor Advertisement for it, or by a
// Neighbor Solicitation from it.
type Claim struct {
	Addr netip.Addr
	MAC  arp.MAC   // of the station, as it says
	Link string    // of ours, on which it was heard
	At   time.Time // when the kernel received it, by the wall clock; it may be long ago
}

// claimLimit bounds how often claims are reported, and its own size. The zero value is
// ready for use, by any goroutine.
type claimLimit struct {
	mu       sync.Mutex
	reported map[claimKey]time.Time
}

type claimKey struct {
	addr netip.Addr
	mac  arp.MAC
}

// pass reports whether a claim is to be reported now.
func (l *claimLimit) pass(k claimKey, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.reported[k]; ok && now.Sub(last) < claimPause {
		return false
	}
	if len(l.reported) >= maxClaims {
		for old, last := range l.reported {
			if now.Sub(last) >= claimPause {
				delete(l.reported, old)
			}
		}
		if len(l.reported) >= maxClaims {
			return false
		}
	}
	if l.reported == nil {
		l.reported = map[claimKey]time.Time{}
	}
	l.reported[k] = now
	return true
}

// foreign reports whether c, of a frame from src, claims for another station what we own
// where it was heard. It costs one look-up if we do not own the address.
func (t *table) foreign(c wire.Claim, src arp.MAC) bool {
	if _, _, ok := t.owned(key{c.Addr, c.Link}); !ok {
		return false
	}
	_, ours := t.macs[c.MAC]
	_, fromUs := t.macs[src] // as of a link that hears another one of this node
	return !ours && !fromUs
}

// claimed tells of c, which was heard at at.
func (a *Announcer) claimed(t *table, c wire.Claim, at time.Time) {
	if a.cfg.OnClaim == nil || !a.claims.pass(claimKey{c.Addr, c.MAC}, time.Now()) {
		return
	}
	a.cfg.OnClaim(Claim{Addr: c.Addr, MAC: c.MAC, Link: t.ports[c.Link].name, At: at})
}
