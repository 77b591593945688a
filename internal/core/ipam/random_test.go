package ipam_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

// cluster is a small world in which random things happen to Services and pools.
type cluster struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	guard bool
	now   time.Time
	book  *ipam.Book
	cfg   *config.Config
	svcs  map[lb.Key]*lb.Service
	uid   int
	// What others have claimed, and use on the wire.
	foreign map[netip.Addr][]lb.Holder
	onWire  map[netip.Addr]bool
}

func newCluster(t *testing.T, seed uint64) *cluster {
	t.Helper()
	c := &cluster{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, seed)), now: time.Unix(1, 0), book: ipam.NewBook(), cfg: &config.Config{},
		svcs: map[lb.Key]*lb.Service{}, foreign: map[netip.Addr][]lb.Holder{}, onWire: map[netip.Addr]bool{},
	}
	if c.guard = seed%4 == 3; c.guard {
		c.book.Guard()
	}
	return c
}

func (c *cluster) sorted() []lb.Key { return slices.SortedFunc(maps.Keys(c.svcs), lb.Key.Compare) }

func (c *cluster) pick(texts ...string) string { return texts[c.rng.IntN(len(texts))] }

func (c *cluster) pools() *config.Config {
	var pools []config.IPAddressPool
	for i, name := range []string{"a", "b", "c", "d"} {
		if c.rng.IntN(4) == 0 {
			continue
		}
		p := poolSpec(name, []string{fmt.Sprintf("10.0.%d.%s", i, c.pick("0/30", "0/29", "250-10.0.%[1]d.255", "3/32"))})
		if c.rng.IntN(2) == 0 {
			p.Addresses = append(p.Addresses, fmt.Sprintf("fd0%d::%s", i, c.pick("/126", "/127", "1/128")))
		}
		p.Addresses[0] = fmt.Sprintf(p.Addresses[0], i)
		p.AvoidBuggyIPs, p.AutoAssign = c.rng.IntN(3) == 0, c.rng.IntN(5) > 0
		switch c.rng.IntN(4) {
		case 0:
			priority(c.rng.IntN(3))(&p)
		case 1:
			onlyFor(c.pick("x", "y"))(&p)
		}
		if c.rng.IntN(8) == 0 {
			p.Addresses = append(p.Addresses, "junk")
		}
		pools = append(pools, p)
	}
	return config.Parse(config.Objects{Pools: pools}, nil)
}

func (c *cluster) address() netip.Addr {
	if c.rng.IntN(3) == 0 {
		return netip.MustParseAddr(fmt.Sprintf("fd0%d::%d", c.rng.IntN(5), c.rng.IntN(5)))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", c.rng.IntN(5), c.rng.IntN(9)))
}

// change gives a Service a new spec and leaves its status.
func (c *cluster) change(key lb.Key) *lb.Service {
	svc := &lb.Service{Key: key, SharingKey: c.pick("", "", "k", "j"), Backend: c.pick("", "", "app=a")}
	if old := c.svcs[key]; old != nil {
		svc.UID, svc.Addrs, svc.Pool = old.UID, old.Addrs, old.Pool
	} else {
		c.uid++
		svc.UID = fmt.Sprint(c.uid)
	}
	switch c.rng.IntN(4) {
	case 0:
		svc.ClusterIPs, svc.FamilyPolicy = addrs("10.96.0.1", "fd00:96::1"), lb.FamilyPolicy(c.pick("PreferDualStack", "RequireDualStack"))
	case 1:
		svc.ClusterIPs, svc.FamilyPolicy = addrs("fd00:96::1"), lb.FamilyPolicy(c.pick("SingleStack", "PreferDualStack"))
	default:
		svc.ClusterIPs, svc.FamilyPolicy = addrs("10.96.0.1"), lb.FamilyPolicy(c.pick("SingleStack", "SingleStack", "PreferDualStack", "RequireDualStack"))
	}
	for n := range uint16(4) {
		if c.rng.IntN(3) == 0 {
			svc.Ports = append(svc.Ports, lb.Port{Protocol: "TCP", Number: 80 + n})
		}
	}
	switch c.rng.IntN(8) {
	case 0:
		svc.RequestedPool = c.pick("a", "b", "c", "d", "e")
	case 1:
		svc.Requested = []netip.Addr{c.address()}
	case 2:
		svc.RequestErr = "junk"
	}
	return svc
}

// reconcile is what the controller does with one Service.
func (c *cluster) reconcile(svc *lb.Service) {
	had := c.book.Holding(svc.Key).Addrs
	d := c.book.Decide(svc)
	c.book.Settle(svc, d.Addrs)
	next := *svc
	next.Addrs, next.Pool = d.Addrs, d.Pool
	c.svcs[svc.Key] = &next
	c.book.NoteWritten(&next)

	if settled := c.book.Decide(&next); !slices.Equal(settled.Addrs, d.Addrs) || settled.Pool != d.Pool || settled.Cleared != nil {
		c.t.Fatalf("seed %d: %s does not converge: %+v, then %+v", c.seed, svc.Key, d, settled)
	}
	for _, a := range d.Addrs {
		if p := c.cfg.PoolByName(d.Pool); d.Guarded == nil && !c.cfg.SetAside[d.Pool] &&
			(p == nil || !p.Contains(a) || !p.Allows(svc) || p.AvoidBuggyIPs && (a.Is4() && a.As4()[3]%255 == 0)) {
			c.t.Fatalf("seed %d: %s has %s of pool %q", c.seed, svc.Key, a, d.Pool)
		}
		if slices.Contains(had, a) {
			continue
		}
		for _, h := range c.foreign[a] {
			if ipam.Clash(a, h, lb.HolderOf(svc)) != nil {
				c.t.Fatalf("seed %d: %s is given %s, which is claimed for %s", c.seed, svc.Key, a, h.Key)
			}
		}
		if c.onWire[a] {
			c.t.Fatalf("seed %d: %s is given %s, which others use", c.seed, svc.Key, a)
		}
	}
	if len(d.Addrs) == 0 && d.Refused == nil || len(d.Addrs) > 0 && d.Pool == "" {
		c.t.Fatalf("seed %d: %s: %+v", c.seed, svc.Key, d)
	}
}

var equalAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// checkShared: an address is held by one Service, or by several that may share it.
func (c *cluster) checkShared() {
	byAddr := map[netip.Addr][]*lb.Service{}
	for _, svc := range c.svcs {
		for _, a := range svc.Addrs {
			for _, o := range byAddr[a] {
				common := slices.ContainsFunc(svc.Ports, func(p lb.Port) bool { return slices.Contains(o.Ports, p) })
				if svc.SharingKey == "" || svc.SharingKey != o.SharingKey || svc.Backend != o.Backend || common {
					c.t.Fatalf("seed %d: %s is held by %+v and %+v", c.seed, a, svc, o)
				}
			}
			byAddr[a] = append(byAddr[a], svc)
		}
	}
}

// checkUsage counts plainly.
func (c *cluster) checkUsage() {
	held := map[netip.Addr]bool{}
	for _, svc := range c.svcs {
		for _, a := range svc.Addrs {
			held[a] = true
		}
	}
	got := map[string]ipam.Usage{}
	for _, u := range c.book.Usage() {
		got[u.Pool] = u
	}
	want := map[string]ipam.Usage{}
	for _, p := range c.cfg.Pools {
		u := ipam.Usage{Pool: p.Name}
		for _, r := range p.Ranges {
			for a := r.First; r.Contains(a); a = a.Next() {
				assigned, total := &u.Assigned4, &u.Total4
				if !a.Is4() {
					assigned, total = &u.Assigned6, &u.Total6
				}
				if p.AvoidBuggyIPs && a.Is4() && a.As4()[3]%255 == 0 {
					continue
				}
				switch *total++; {
				case held[a]:
					*assigned++
				case c.onWire[a] && a.Is4():
					u.OnWire4++
				case c.onWire[a]:
					u.OnWire6++
				}
			}
		}
		want[p.Name] = u
	}
	if d := cmp.Diff(want, got); d != "" {
		c.t.Fatalf("seed %d: usage (-want +got):\n%s", c.seed, d)
	}
}

// checkRestart: a new Book that adopts all statuses, in any order and before or
// after it knows the pools, decides as the old one does, and moves nothing.
func (c *cluster) checkRestart() {
	fresh := ipam.NewBook()
	if c.guard {
		fresh.Guard()
	}
	steps := []func(){
		func() { fresh.SetPools(c.cfg.Pools, c.cfg.SetAside) },
		func() { fresh.SetOnWire(c.conflicts()) },
		func() {
			for a, h := range c.foreign {
				fresh.SetClaim(a, h)
			}
		},
		func() {
			keys := c.sorted()
			c.rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			for _, k := range keys {
				if !fresh.Adopt(c.svcs[k]) {
					c.t.Fatalf("seed %d: %s is not adopted", c.seed, k)
				}
			}
		},
	}
	c.rng.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	for _, step := range steps {
		step()
	}
	for _, f := range c.book.Former(1000) {
		fresh.Remember(f.Key, f.Addrs, f.Until)
	}
	for _, k := range c.sorted() {
		want, got := c.book.Decide(c.svcs[k]), fresh.Decide(c.svcs[k])
		if !sameDecision(want, got) {
			c.t.Fatalf("seed %d: %s after a restart (-before +after):\n%s", c.seed, k, cmp.Diff(want, got, equalAddrs))
		}
	}
	newcomer := c.change(lb.Key{Namespace: c.pick("x", "y"), Name: c.pick("newcomer", "1", "2", "3")})
	if want, got := c.book.Decide(newcomer), fresh.Decide(newcomer); !sameDecision(want, got) {
		c.t.Fatalf("seed %d: %s after a restart (-before +after):\n%s", c.seed, newcomer.Key, cmp.Diff(want, got, equalAddrs))
	}
	if d := cmp.Diff(c.book.Usage(), fresh.Usage()); d != "" {
		c.t.Fatalf("seed %d: usage after a restart (-before +after):\n%s", c.seed, d)
	}
}

// sameDecision is a fast comparison.
func sameDecision(a, b ipam.Decision) bool {
	same := func(a, b *ipam.Refusal) bool { return a == b || a != nil && b != nil && *a == *b }
	return slices.Equal(a.Addrs, b.Addrs) && a.Pool == b.Pool && same(a.Refused, b.Refused) && same(a.Cleared, b.Cleared) && same(a.Guarded, b.Guarded)
}

func (c *cluster) conflicts() []lb.WireConflict {
	var out []lb.WireConflict
	for _, a := range slices.SortedFunc(maps.Keys(c.onWire), netip.Addr.Compare) {
		out = append(out, lb.WireConflict{Addr: a, MAC: "02:00:00:00:00:01"})
	}
	return out
}

// holds returns what each Service has.
func (c *cluster) holds() map[lb.Key][]netip.Addr {
	out := make(map[lb.Key][]netip.Addr, len(c.svcs))
	for k, svc := range c.svcs {
		out[k] = svc.Addrs
	}
	return out
}

// checkStay: whatever happened to others, a Service keeps what it had.
func (c *cluster) checkStay(before map[lb.Key][]netip.Addr, except lb.Key) {
	for k, had := range before {
		svc := c.svcs[k]
		if svc == nil || k == except {
			continue
		}
		d := c.book.Decide(svc)
		if slices.ContainsFunc(had, func(a netip.Addr) bool { return !slices.Contains(d.Addrs, a) }) {
			c.t.Fatalf("seed %d: %s had %v and has %+v", c.seed, k, had, d)
		}
	}
}

// leave deletes a Service; its addresses are kept for a while.
func (c *cluster) leave(key lb.Key) {
	if svc := c.svcs[key]; svc != nil {
		c.book.Remember(key, svc.Addrs, c.now.Add(10*time.Minute))
	}
	c.book.Release(key)
	delete(c.svcs, key)
}

// back creates a Service anew under a name that was there before. If nothing else
// has changed, it gets what it had.
func (c *cluster) back(key lb.Key) {
	old := *c.svcs[key]
	c.leave(key)
	c.uid++
	again := old
	again.UID, again.Addrs, again.Pool = fmt.Sprint(c.uid), nil, ""
	c.reconcile(&again)
	if got := c.svcs[key].Addrs; !c.guard && old.RequestErr == "" && !c.cfg.SetAside[old.Pool] && !slices.ContainsFunc(old.Addrs, c.blocked) && !sameAddrs(old.Addrs, got) {
		if p := c.cfg.PoolByName(old.Pool); p != nil && (p.AutoAssign || old.RequestedPool != "" || len(old.Requested) > 0) && len(old.Addrs) == len(old.Families()) {
			c.t.Fatalf("seed %d: %s had %v and came back to %v", c.seed, key, old.Addrs, got)
		}
	}
}

// sameAddrs reports whether a and b are the same in any order.
func sameAddrs(a, b []netip.Addr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

func (c *cluster) blocked(a netip.Addr) bool { return c.onWire[a] || len(c.foreign[a]) > 0 }

// step lets one random thing happen.
func (c *cluster) step() {
	key := lb.Key{Namespace: c.pick("x", "y"), Name: c.pick("1", "2", "3", "4", "5", "6", "7")}
	before, poolsChanged := c.holds(), false
	switch n := c.rng.IntN(24); {
	case n == 0:
		poolsChanged = true
		c.cfg = c.pools()
		c.book.SetPools(c.cfg.Pools, c.cfg.SetAside)
		for _, k := range c.sorted() {
			c.reconcile(c.svcs[k])
		}
	case n == 1:
		c.now = c.now.Add(time.Duration(c.rng.IntN(15)) * time.Minute)
		c.book.Forget(c.now)
	case n == 2:
		a := c.address()
		c.foreign[a] = []lb.Holder{{Key: lb.Key{Namespace: "z", Name: "stranger"}, UID: "stranger", SharingKey: c.pick("", "k")}}
		if c.rng.IntN(2) == 0 {
			delete(c.foreign, a)
		}
		c.book.SetClaim(a, c.foreign[a])
	case n == 3:
		clear(c.onWire)
		for range c.rng.IntN(4) {
			c.onWire[c.address()] = true
		}
		c.book.SetOnWire(c.conflicts())
	case n < 7:
		c.leave(key)
	case n == 7 && c.svcs[key] != nil:
		c.back(key)
	default:
		c.reconcile(c.change(key))
	}
	if !poolsChanged || c.guard {
		c.checkStay(before, key)
	}
	c.checkShared()
}

// TestRandomOperations: whatever happens, no address is given twice, decisions
// converge, a Service that has what it wants never moves, one that comes back gets
// what it had, and a restart at any point changes nothing.
func TestRandomOperations(t *testing.T) {
	const length = 14 // operations of a sequence
	sequences := 100_000
	if raceEnabled || testing.Short() {
		sequences = 2_000
	}
	t.Logf("%d sequences: seeds 0 to %d", sequences, sequences-1)
	const workers = 4
	for w := range workers {
		t.Run(fmt.Sprint(w), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(w); seed < uint64(sequences); seed += workers {
				c := newCluster(t, seed)
				c.cfg = c.pools()
				c.book.SetPools(c.cfg.Pools, c.cfg.SetAside)
				at := c.rng.IntN(length)
				for i := range length {
					if c.step(); i == at {
						c.checkRestart()
					}
				}
				c.checkUsage()
				c.checkRestart()
			}
		})
	}
}

// TestSatisfiedServiceNeverMoves, whoever comes and goes around it, and whatever
// is added to the pools.
func TestSatisfiedServiceNeverMoves(t *testing.T) {
	const seed = 21
	rng := rand.New(rand.NewPCG(seed, seed))
	b := bookOf(t, v4("m", "10.0.0.0/28"))
	pools := []config.IPAddressPool{v4("m", "10.0.0.0/28")}
	var svcs []*lb.Service
	for i := range 12 {
		svcs = append(svcs, svc4(fmt.Sprint("s", i)))
		settle(b, svcs[i])
	}
	for i := range 200 {
		switch rng.IntN(3) {
		case 0:
			if pools[0].Addresses[0] = "10.0.0.0/27"; i > 100 && len(pools) == 1 {
				pools = append(pools, poolSpec("a", []string{"10.1.0.0/24"}, priority(1)), v4("b", "10.2.0.0/24"))
			}
			c := parse(t, pools...)
			b.SetPools(c.Pools, c.SetAside)
		case 1:
			j := rng.IntN(len(svcs))
			b.Release(svcs[j].Key)
			svcs = slices.Delete(svcs, j, j+1)
		case 2:
			svcs = append(svcs, svc4(fmt.Sprint("new", i)))
			settle(b, svcs[len(svcs)-1])
		}
		for _, svc := range svcs {
			before := svc.Addrs
			if d := settle(b, svc); len(before) > 0 && !slices.Equal(before, d.Addrs) {
				t.Fatalf("seed %d: %s moved from %v to %+v", seed, svc.Key, before, d)
			}
		}
	}
}

func fullBook(b *testing.B, n int, pools ...config.IPAddressPool) (*ipam.Book, []*lb.Service) {
	book := bookOf(b, pools...)
	svcs := make([]*lb.Service, n)
	for i := range svcs {
		svcs[i] = svc4(fmt.Sprint("s", i))
		if d := settle(book, svcs[i]); len(d.Addrs) == 0 {
			b.Fatal(d.Refused)
		}
	}
	return book, svcs
}

// BenchmarkFill allocates 10,000 Services from an empty /16: the time of each must
// not grow with those before.
func BenchmarkFill(b *testing.B) {
	for b.Loop() {
		fullBook(b, 10_000, v4("p", "10.0.0.0/16"))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/service")
}

// BenchmarkOneMore allocates and releases one Service beside those that are there.
func BenchmarkOneMore(b *testing.B) {
	for _, c := range []struct {
		name  string
		held  int
		every int // of which every n-th was released
	}{{"10000held", 10_000, 0}, {"16full", 65_470, 0}, {"fragmented", 60_000, 2}} {
		b.Run(c.name, func(b *testing.B) {
			book, svcs := fullBook(b, c.held, v4("p", "10.0.0.0/16"))
			for i, s := range svcs {
				if c.every > 0 && i%c.every == 0 {
					book.Release(s.Key)
				}
			}
			svc := svc4("one-more")
			for b.Loop() {
				svc.Addrs, svc.Pool = nil, ""
				settle(book, svc)
				book.Release(svc.Key)
			}
		})
	}
}

// BenchmarkOneMoreSharer lets one join 1,000 Services on one address.
func BenchmarkOneMoreSharer(b *testing.B) {
	book := bookOf(b, v4("p", "10.0.0.0/16"))
	share := func(i int) *lb.Service {
		s := svc4(fmt.Sprint("s", i))
		s.SharingKey, s.Ports = "k", []lb.Port{{Protocol: "TCP", Number: uint16(i)}}
		return s
	}
	for i := range 1000 {
		settle(book, share(i))
	}
	for b.Loop() {
		svc := share(1000)
		settle(book, svc)
		book.Release(svc.Key)
	}
}

// BenchmarkRestart makes a Book of 10,000 statuses, adopted in random order.
func BenchmarkRestart(b *testing.B) {
	_, svcs := fullBook(b, 10_000, v4("p", "10.0.0.0/16"))
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(svcs), func(i, j int) { svcs[i], svcs[j] = svcs[j], svcs[i] })
	cfg := parse(b, v4("p", "10.0.0.0/16"))
	for b.Loop() {
		book := ipam.NewBook()
		book.SetPools(cfg.Pools, cfg.SetAside)
		for _, s := range svcs {
			if !book.Adopt(s) {
				b.Fatal("not adopted")
			}
		}
	}
}

func BenchmarkUsage(b *testing.B) {
	book, _ := fullBook(b, 10_000, poolSpec("p", []string{"10.0.0.0/8"}, noBuggy))
	for b.Loop() {
		book.Usage()
	}
}
