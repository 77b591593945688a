package liveness

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	core "github.com/barelb/barelb/internal/core/liveness"
)

// seen counts the probes of those who observe this node, until they are told. It may be
// used by any goroutine.
type seen struct {
	mu     sync.Mutex
	counts map[string]map[core.Segment]uint32 // by the observer
}

func (s *seen) add(node string, seg core.Segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = map[string]map[core.Segment]uint32{}
	}
	if s.counts[node] == nil {
		s.counts[node] = map[core.Segment]uint32{}
	}
	s.counts[node][seg]++
}

// take returns what was counted of an observer since the last call.
func (s *seen) take(node string) map[core.Segment]uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.counts[node]
	delete(s.counts, node)
	return out
}

// A beat is an empty frame, or one with the counts since the last one that had any:
// their number, then of each the prefix and the count.

// appendCounts encodes the counts of the given segments; one that is not in counts is 0.
func appendCounts(b []byte, segments []core.Segment, counts map[core.Segment]uint32) []byte {
	b = binary.AppendUvarint(b, uint64(len(segments)))
	for _, seg := range segments {
		addr := seg.Addr().AsSlice()
		b = append(append(b, byte(seg.Bits()), byte(len(addr))), addr...)
		b = binary.AppendUvarint(b, uint64(counts[seg]))
	}
	return b
}

func parseCounts(b []byte) (map[core.Segment]uint32, error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)) {
		return nil, fmt.Errorf("%w: beat", errFrame)
	}
	b = b[used:]
	out := make(map[core.Segment]uint32, n)
	for range n {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return nil, fmt.Errorf("%w: beat", errFrame)
		}
		size := 2 + int(b[1])
		addr, ok := netip.AddrFromSlice(b[2:size])
		seg := netip.PrefixFrom(addr, int(b[0]))
		count, used := binary.Uvarint(b[size:])
		if !ok || !seg.IsValid() || seg != seg.Masked() || used <= 0 {
			return nil, fmt.Errorf("%w: beat", errFrame)
		}
		out[seg] = uint32(count)
		b = b[size+used:]
	}
	return out, nil
}
