package ipam

import "net/netip"

// NextFree returns up to n free addresses of each family of a pool, those that are
// given next first: in the order of the pool's ranges, the lowest first. Addresses
// that skip is true for are passed over. It costs n and what is passed over.
func (b *Book) NextFree(pool string, n int, skip func(netip.Addr) bool) []netip.Addr {
	p := b.poolByName(pool)
	if p == nil {
		return nil
	}
	var v4, v6 []netip.Addr
	for _, sets := range [][]freeSet{p.free, p.kept} {
		for i := range sets {
			out := &v4
			if !p.Ranges[i].First.Is4() {
				out = &v6
			}
			for _, span := range sets[i] {
				for a := span.First; len(*out) < n && span.Contains(a); a = a.Next() {
					if !p.avoids(a) && !skip(a) {
						*out = append(*out, a)
					}
				}
			}
		}
	}
	return append(v4, v6...)
}
