package ipam_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

// cluster is a small world in which random things happen to Services and pools.
type cluster struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand
	book *ipam.Book
	cfg  *config.Config
	svcs map[lb.Key]*lb.Service
}

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
		svc.Addrs, svc.Pool = old.Addrs, old.Pool
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
	again := c.book.Decide(svc)
	d := c.book.Decide(svc)
	if diff := cmp.Diff(again, d, equalAddrs); diff != "" {
		c.t.Fatalf("seed %d: %s: decided twice (-first +second):\n%s", c.seed, svc.Key, diff)
	}
	c.book.Settle(svc, d.Addrs)
	next := *svc
	next.Addrs, next.Pool = d.Addrs, d.Pool
	c.svcs[svc.Key] = &next

	if settled := c.book.Decide(&next); !slices.Equal(settled.Addrs, d.Addrs) || settled.Pool != d.Pool || settled.Cleared != nil {
		c.t.Fatalf("seed %d: %s does not converge: %+v, then %+v", c.seed, svc.Key, d, settled)
	}
	for _, a := range d.Addrs {
		if p := c.cfg.PoolByName(d.Pool); !c.cfg.SetAside[d.Pool] && (p == nil || !p.Contains(a) || !p.Allows(svc) || p.AvoidBuggyIPs && (a.Is4() && a.As4()[3]%255 == 0)) {
			c.t.Fatalf("seed %d: %s has %s of pool %q", c.seed, svc.Key, a, d.Pool)
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
				if *total++; held[a] {
					*assigned++
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
	poolsFirst := c.rng.IntN(2) == 0
	if poolsFirst {
		fresh.SetPools(c.cfg.Pools, c.cfg.SetAside)
	}
	keys := slices.SortedFunc(maps.Keys(c.svcs), lb.Key.Compare)
	c.rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, k := range keys {
		if !fresh.Adopt(c.svcs[k]) {
			c.t.Fatalf("seed %d: %s is not adopted", c.seed, k)
		}
	}
	if !poolsFirst {
		fresh.SetPools(c.cfg.Pools, c.cfg.SetAside)
	}
	for _, k := range keys {
		want, got := c.book.Decide(c.svcs[k]), fresh.Decide(c.svcs[k])
		if d := cmp.Diff(want, got, equalAddrs); d != "" {
			c.t.Fatalf("seed %d: %s after a restart (-before +after):\n%s", c.seed, k, d)
		}
	}
	newcomer := c.change(lb.Key{Namespace: c.pick("x", "y"), Name: "newcomer"})
	if d := cmp.Diff(c.book.Decide(newcomer), fresh.Decide(newcomer), equalAddrs); d != "" {
		c.t.Fatalf("seed %d: a newcomer after a restart (-before +after):\n%s", c.seed, d)
	}
	if d := cmp.Diff(c.book.Usage(), fresh.Usage()); d != "" {
		c.t.Fatalf("seed %d: usage after a restart (-before +after):\n%s", c.seed, d)
	}
}

// TestRandomOperations: whatever happens, no address is given twice, decisions
// converge, and a restart at any point changes nothing.
func TestRandomOperations(t *testing.T) {
	for seed := range uint64(40) {
		c := &cluster{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, seed)), book: ipam.NewBook(), cfg: &config.Config{}, svcs: map[lb.Key]*lb.Service{}}
		for range 100 {
			key := lb.Key{Namespace: c.pick("x", "y"), Name: c.pick("1", "2", "3", "4", "5", "6", "7")}
			switch n := c.rng.IntN(20); {
			case n == 0:
				c.cfg = c.pools()
				c.book.SetPools(c.cfg.Pools, c.cfg.SetAside)
				for _, k := range slices.SortedFunc(maps.Keys(c.svcs), lb.Key.Compare) {
					c.reconcile(c.svcs[k])
				}
			case n < 5:
				c.book.Release(key)
				delete(c.svcs, key)
			default:
				c.reconcile(c.change(key))
			}
			c.checkShared()
			c.checkUsage()
			c.checkRestart()
		}
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
