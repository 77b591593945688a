package explain

import (
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// Problems returns what is wrong with the configuration, sorted.
func (w *World) Problems() []config.Problem { return w.cfg.Problems }

// Takeover says what a controller that starts does to the addresses that Services hold:
// how many Services keep theirs, and what becomes of the others.
func Takeover(c *Cluster) (kept int, lost []Move) {
	w := New(c)
	before := map[lb.Key][]netip.Addr{}
	for _, key := range w.keys {
		before[key] = w.services[key].Addrs
	}
	w.settle()
	for _, key := range w.keys {
		was, is := before[key], w.services[key].Addrs
		switch {
		case len(was) == 0:
		case !slices.ContainsFunc(was, func(a netip.Addr) bool { return !slices.Contains(is, a) }):
			kept++
		case len(is) == 0:
			m := Move{Service: key.String(), Effect: Loses, Addresses: was, From: addrs(was)}
			if d := w.book.Decide(&w.services[key].Service); d.Refused != nil {
				m.Reason, m.Message = d.Refused.Reason, d.Refused.Message
			}
			lost = append(lost, m)
		default:
			lost = append(lost, Move{Service: key.String(), Effect: Readdr, Addresses: was, From: addrs(was), To: addrs(is)})
		}
	}
	return kept, lost
}
