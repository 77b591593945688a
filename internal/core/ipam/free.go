package ipam

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
)

// freeSet is the free addresses of one range, as sorted disjoint spans with at
// least one taken address between two of them. Finding the lowest free address
// costs nothing, taking and giving back a binary search.
type freeSet []config.Range

// find returns the index of the first span that ends at or after addr.
func (f freeSet) find(addr netip.Addr) int {
	i, _ := slices.BinarySearchFunc(f, addr, func(s config.Range, a netip.Addr) int { return s.Last.Compare(a) })
	return i
}

// take removes addr. Taking what is not free changes nothing.
func (f *freeSet) take(addr netip.Addr) {
	i := f.find(addr)
	if i == len(*f) || !(*f)[i].Contains(addr) {
		return
	}
	s := (*f)[i]
	switch {
	case s.First == s.Last:
		*f = slices.Delete(*f, i, i+1)
	case addr == s.First:
		(*f)[i].First = addr.Next()
	case addr == s.Last:
		(*f)[i].Last = addr.Prev()
	default:
		(*f)[i].Last = addr.Prev()
		*f = slices.Insert(*f, i+1, config.Range{First: addr.Next(), Last: s.Last})
	}
}

// give adds addr, joining it to the spans on both sides. Giving what is free
// already changes nothing.
func (f *freeSet) give(addr netip.Addr) {
	i := f.find(addr)
	if i < len(*f) && (*f)[i].Contains(addr) {
		return
	}
	joinsPrev := i > 0 && (*f)[i-1].Last.Next() == addr
	joinsNext := i < len(*f) && addr.Next() == (*f)[i].First
	switch {
	case joinsPrev && joinsNext:
		(*f)[i-1].Last = (*f)[i].Last
		*f = slices.Delete(*f, i, i+1)
	case joinsPrev:
		(*f)[i-1].Last = addr
	case joinsNext:
		(*f)[i].First = addr
	default:
		*f = slices.Insert(*f, i, config.Range{First: addr, Last: addr})
	}
}

// buggy reports whether addr is one that avoidBuggyIPs avoids.
func buggy(addr netip.Addr) bool {
	if !addr.Is4() {
		return false
	}
	last := addr.As4()[3]
	return last == 0 || last == 255
}

// buggyIn counts the addresses of r that avoidBuggyIPs avoids.
func buggyIn(r config.Range) int64 {
	if !r.First.Is4() {
		return 0
	}
	below := func(x int64) int64 { return x/256*2 + min(x%256, 1) } // of the addresses 0 to x-1
	first, last := r.First.As4(), r.Last.As4()
	return below(int64(binary.BigEndian.Uint32(last[:]))+1) - below(int64(binary.BigEndian.Uint32(first[:])))
}

// size returns how many addresses r has, at most math.MaxInt64.
func size(r config.Range) int64 {
	a, b := r.First.As16(), r.Last.As16()
	high0, low0 := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	high, low := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	if high > high0 && (high-high0 > 1 || low >= low0) || low-low0 >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low-low0) + 1
}

// addSizes adds two sizes, at most math.MaxInt64.
func addSizes(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
