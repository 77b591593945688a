package layer2

import (
	"container/heap"
	"hash/fnv"
	"net/netip"
	"time"
)

// schedule says when which address is next announced on which link, unasked. It
// reads no clock. An address is announced when it is started, then at growing gaps
// for 8 s, because a switch or host may miss the first frames while it converges,
// and then once per refresh.
type schedule struct {
	refresh time.Duration
	items   map[key]*item
	queue   queue
}

// item is one address on one link.
type item struct {
	key   key
	since time.Time // when its announcement was started
	at    time.Time // when it is next announced
	first bool      // it is due, and goes before all that is told again
	once  bool      // it is announced once, and forgotten
	pos   int       // in the queue
}

func newSchedule(refresh time.Duration) *schedule {
	return &schedule{refresh: refresh, items: map[key]*item{}}
}

// start makes k due now, and begins its schedule anew.
func (s *schedule) start(k key, now time.Time) { s.put(item{key: k, since: now, at: now, first: true}) }

// startSlowly begins k's schedule with the slow refresh.
func (s *schedule) startSlowly(k key, now time.Time) {
	since := now.Add(-burst)
	s.put(item{key: k, since: since, at: next(since, now, s.refresh, spread(k.addr, s.refresh))})
}

// once makes k due now, besides what its schedule says if it has one.
func (s *schedule) once(k key, now time.Time) {
	if !s.again(k, now) {
		s.put(item{key: k, at: now, first: true, once: true})
	}
}

// again makes k due now, if it has a schedule, and reports whether it has.
func (s *schedule) again(k key, now time.Time) bool {
	it := s.items[k]
	if it == nil {
		return false
	}
	it.at = now
	heap.Fix(&s.queue, it.pos)
	return true
}

func (s *schedule) put(it item) {
	if old := s.items[it.key]; old != nil {
		it.pos = old.pos
		*old = it
		heap.Fix(&s.queue, it.pos)
		return
	}
	s.items[it.key] = &it
	heap.Push(&s.queue, &it)
}

// stop forgets k.
func (s *schedule) stop(k key) {
	if it := s.items[k]; it != nil {
		heap.Remove(&s.queue, it.pos)
		delete(s.items, k)
	}
}

// due returns one key that is to be announced now and moves it to its next time;
// false if there is none.
func (s *schedule) due(now time.Time) (key, bool) {
	if len(s.queue) == 0 || s.queue[0].at.After(now) {
		return key{}, false
	}
	it := s.queue[0]
	it.first = false
	if it.once {
		s.stop(it.key)
		return it.key, true
	}
	if !it.at.After(it.since.Add(burst)) {
		// What could not be told in time is told at its gaps all the same. Refreshes are
		// not moved: they would all be due together ever after.
		it.since = it.since.Add(now.Sub(it.at))
	}
	it.at = next(it.since, now, s.refresh, spread(it.key.addr, s.refresh))
	heap.Fix(&s.queue, 0)
	return it.key, true
}

// deadline returns when the next key is due; false if there is none.
func (s *schedule) deadline() (time.Time, bool) {
	if len(s.queue) == 0 {
		return time.Time{}, false
	}
	return s.queue[0].at, true
}

// burst is how long what is started is announced at growing gaps.
const burst = 8 * time.Second

// next returns when to announce again, after now, what is announced since then.
// spread, at most refresh, moves all refreshes, so that addresses that were taken
// over together are not refreshed in one burst for ever after.
func next(since, now time.Time, refresh, spread time.Duration) time.Time {
	const ms = time.Millisecond
	last := since
	for _, d := range [...]time.Duration{0, 300 * ms, 1000 * ms, 2000 * ms, 4000 * ms, burst} {
		if last = since.Add(d); last.After(now) {
			return last
		}
	}
	first := last.Add(spread)
	if first.After(now) {
		return first
	}
	passed := now.Sub(first)
	return now.Add(refresh - passed%refresh)
}

// spread returns a part of refresh that depends on addr alone.
func spread(addr netip.Addr, refresh time.Duration) time.Duration {
	h := fnv.New32a()
	b := addr.As16()
	_, _ = h.Write(b[:]) // it never fails
	return refresh * time.Duration(h.Sum32()>>16) >> 16
}

// queue is a heap of items: first those that nobody has heard of yet, which are due, and
// then those due soonest.
type queue []*item

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	if q[i].first != q[j].first {
		return q[i].first
	}
	return q[i].at.Before(q[j].at)
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = i, j
}

func (q *queue) Push(x any) {
	it := x.(*item) //nolint:forcetypeassert // nothing else is pushed
	it.pos = len(*q)
	*q = append(*q, it)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	it := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return it
}
