package layer2

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
)

// Status is what an Announcer does at one moment. It belongs to the caller.
type Status struct {
	Addrs map[netip.Addr]AddrStatus
	// Links says of every link of the node whether it can carry announcements.
	// It is empty while Run does not run.
	Links map[string]links.Reason
}

// AddrStatus is what is done for one address.
type AddrStatus struct {
	Role         lb.Role
	Reason       Reason   // Answered if there are Links, and otherwise why there are none
	Links        []string // that the address is answered for on now, sorted
	MissingLinks []string // that were asked for but do not exist here, sorted

	RequestsReceived uint64 // ARP requests and solicitations that were to be answered
	RepliesSent      uint64
	GratuitousSent   uint64 // frames that nobody had asked for
}

// Reason says that an address is answered for, or why it is not on any link. Only what
// is Answered is announced.
type Reason string

// Reasons, in the order in which they are looked for.
const (
	Answered     Reason = "Answered"
	LinksUnknown Reason = "LinksUnknown" // Run does not run, or has not seen the links yet
	NoSuchLink   Reason = "NoSuchLink"   // none of the links that were asked for exists here
	NoOwnerMAC   Reason = "NoOwnerMAC"   // to take care for the owner: its MAC is not known for any link that exists here
	NoUsableLink Reason = "NoUsableLink" // none of those that may be answered on can carry the address's family
)

// Status returns what is done now.
func (a *Announcer) Status() Status {
	t := a.table.Load()
	s := Status{
		Addrs: make(map[netip.Addr]AddrStatus, len(t.addrs)),
		Links: maps.Clone(t.links),
	}
	for addr, e := range t.addrs {
		s.Addrs[addr] = t.status(e)
	}
	return s
}

func (t *table) status(e *entry) AddrStatus {
	as := AddrStatus{
		Role:             e.ann.Role,
		RequestsReceived: e.count.requests.Load(),
		RepliesSent:      e.count.replies.Load(),
		GratuitousSent:   e.count.gratuitous.Load(),
	}
	for _, p := range t.ports {
		if e.on(p) {
			as.Links = append(as.Links, p.name)
		}
	}
	slices.Sort(as.Links)
	if t.links != nil {
		for _, name := range e.ann.Links {
			if _, ok := t.links[name]; !ok {
				as.MissingLinks = append(as.MissingLinks, name)
			}
		}
	}
	as.Reason = t.reason(e, as)
	return as
}

func (t *table) reason(e *entry, as AddrStatus) Reason {
	switch {
	case len(as.Links) > 0:
		return Answered
	case t.links == nil:
		return LinksUnknown
	case len(as.MissingLinks) > 0 && len(as.MissingLinks) == len(e.ann.Links):
		return NoSuchLink
	case e.ann.Role == lb.Caretake && !t.knowsOwner(e):
		return NoOwnerMAC
	}
	return NoUsableLink
}

// knowsOwner reports whether a link exists here for which the owner's MAC is known.
func (t *table) knowsOwner(e *entry) bool {
	for name, mac := range e.ann.MACs {
		if _, ok := t.links[name]; ok && station(mac) {
			return true
		}
	}
	return false
}
