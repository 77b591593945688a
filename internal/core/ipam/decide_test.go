package ipam_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

// TestFamilies is the matrix of section 2.6, with every kind of pool.
func TestFamilies(t *testing.T) {
	only4, only6 := v4("four", "10.0.0.0/24"), v4("six", "fd00::/120")
	both := poolSpec("two", []string{"10.0.2.0/24", "fd02::/120"})
	six1st := dual("s", lb.PreferDualStack)
	six1st.ClusterIPs = addrs("fd00:96::1", "10.96.0.1")
	require6 := dual("s", lb.RequireDualStack)
	require6.ClusterIPs = six1st.ClusterIPs
	prefer1 := svc4("s")
	prefer1.FamilyPolicy = lb.PreferDualStack
	require1 := svc6("s")
	require1.FamilyPolicy = lb.RequireDualStack
	exhausted, one := outcome{Refused: lb.PoolExhausted}, func(o outcome) outcome { o.Refused = lb.PoolExhausted; return o }
	for name, c := range map[string]struct {
		svc   *lb.Service
		pools []config.IPAddressPool
		want  outcome
	}{
		"v4":                            {svc4("s"), []config.IPAddressPool{only4}, give("four", "10.0.0.0")},
		"v4 of a dual pool":             {svc4("s"), []config.IPAddressPool{both}, give("two", "10.0.2.0")},
		"v4, only v6":                   {svc4("s"), []config.IPAddressPool{only6}, exhausted},
		"v6":                            {svc6("s"), []config.IPAddressPool{only4, only6}, give("six", "fd00::")},
		"v6, only v4":                   {svc6("s"), []config.IPAddressPool{only4}, exhausted},
		"v6 of a dual pool":             {svc6("s"), []config.IPAddressPool{both}, give("two", "fd02::")},
		"prefer with one cluster IP":    {prefer1, []config.IPAddressPool{both}, give("two", "10.0.2.0")},
		"require with one cluster IP":   {require1, []config.IPAddressPool{both}, outcome{Refused: lb.NoClusterIP}},
		"no cluster IP":                 {service("s"), []config.IPAddressPool{both}, outcome{Refused: lb.NoClusterIP}},
		"require":                       {dual("s", lb.RequireDualStack), []config.IPAddressPool{only4, only6, both}, give("two", "10.0.2.0", "fd02::")},
		"require, v6 first":             {require6, []config.IPAddressPool{both}, give("two", "10.0.2.0", "fd02::")},
		"require, no pool has both":     {dual("s", lb.RequireDualStack), []config.IPAddressPool{only4, only6}, exhausted},
		"prefer":                        {dual("s", lb.PreferDualStack), []config.IPAddressPool{only4, only6, both}, give("two", "10.0.2.0", "fd02::")},
		"prefer, no pool has both":      {dual("s", lb.PreferDualStack), []config.IPAddressPool{only4, only6}, one(give("four", "10.0.0.0"))},
		"prefer v6, no pool has both":   {six1st, []config.IPAddressPool{only4, only6}, one(give("six", "fd00::"))},
		"prefer v6, only v4":            {six1st, []config.IPAddressPool{only4}, one(give("four", "10.0.0.0"))},
		"single policy, two families":   {dual("s", lb.SingleStack), []config.IPAddressPool{only4}, exhausted},
		"no pool at all":                {svc4("s"), nil, outcome{Refused: lb.NoPool}},
		"no pool with autoAssign":       {svc4("s"), []config.IPAddressPool{poolSpec("m", []string{"10.0.0.0/24"}, manual)}, outcome{Refused: lb.NoPool}},
		"no pool for its namespace":     {svc4("s"), []config.IPAddressPool{poolSpec("m", []string{"10.0.0.0/24"}, onlyFor("x"))}, outcome{Refused: lb.NoPool}},
		"dual pool of a lower priority": {dual("s", lb.PreferDualStack), []config.IPAddressPool{poolSpec("a", []string{"10.0.0.0/24"}, priority(1)), poolSpec("b", []string{"10.0.1.0/24", "fd00::/120"}, priority(2))}, give("b", "10.0.1.0", "fd00::")},
	} {
		t.Run(name, func(t *testing.T) {
			b := bookOf(t, c.pools...)
			svc := *c.svc
			got := b.Decide(&svc)
			check(t, "first", got, c.want)
			// Converges: decided again on its own result, it is the same.
			settle(b, &svc)
			check(t, "again", settle(b, &svc), c.want)
			check(t, "and again", settle(b, &svc), c.want)
		})
	}
}

// TestPoolOrder: pools made for the Service by priority, then the others; then by
// name, then the ranges as written, then the lowest address.
func TestPoolOrder(t *testing.T) {
	pools := []config.IPAddressPool{
		poolSpec("z1", []string{"10.1.0.0/32"}, priority(1)),
		poolSpec("b2", []string{"10.2.0.9/32", "10.2.0.1-10.2.0.2"}, priority(2)),
		poolSpec("a2", []string{"10.3.0.1/32"}, onlyFor("default"), func(p *config.IPAddressPool) { p.Allocation.Priority = 2 }),
		poolSpec("a0", []string{"10.4.0.1/32"}, priority(0)),
		poolSpec("not-mine", []string{"10.5.0.0/24"}, onlyFor("elsewhere")),
		poolSpec("by-hand", []string{"10.6.0.0/24"}, manual),
		v4("y", "10.0.0.1/32"), v4("x", "10.0.0.2/32"),
	}
	want := []string{
		"z1 10.1.0.0", "a2 10.3.0.1", "b2 10.2.0.9", "b2 10.2.0.1", "b2 10.2.0.2", "a0 10.4.0.1", "x 10.0.0.2", "y 10.0.0.1",
	}
	const seed = 5
	rng := rand.New(rand.NewPCG(seed, seed))
	for range 20 {
		b := ipam.NewBook()
		c := parse(t, pools...)
		rng.Shuffle(len(c.Pools), func(i, j int) { c.Pools[i], c.Pools[j] = c.Pools[j], c.Pools[i] })
		b.SetPools(c.Pools, c.SetAside)
		var got []string
		for i := range want {
			d := settle(b, svc4(string(rune('a'+i))))
			if len(d.Addrs) != 1 {
				t.Fatalf("refused: %+v", d.Refused)
			}
			got = append(got, d.Pool+" "+d.Addrs[0].String())
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
		d := b.Decide(svc4("last"))
		check(t, "when all is given", d, outcome{Refused: lb.PoolExhausted})
		if want := "no IPv4 address is free in IPAddressPool z1, a2, b2, a0, x, y"; d.Refused.Message != want {
			t.Errorf("message %q, want %q", d.Refused.Message, want)
		}
	}
}

// TestLowestFreeAddressComesNext also after some were given back.
func TestLowestFreeAddressComesNext(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/29"))
	svcs := map[string]*lb.Service{}
	for _, n := range []string{"a", "b", "c", "d"} {
		svcs[n] = svc4(n)
		settle(b, svcs[n])
	}
	b.Release(svcs["c"].Key)
	b.Release(svcs["a"].Key)
	check(t, "first", settle(b, svc4("x")), give("p", "10.0.0.0"))
	check(t, "second", settle(b, svc4("y")), give("p", "10.0.0.2"))
	check(t, "third", settle(b, svc4("z")), give("p", "10.0.0.4"))
}

func TestAvoidBuggyIPs(t *testing.T) {
	b := bookOf(t, poolSpec("p", []string{"10.0.0.254-10.0.1.2", "10.0.3.0/32", "10.0.4.255/32"}, noBuggy))
	var got []string
	var last *lb.Service
	for i := range 3 {
		last = svc4(string(rune('a' + i)))
		got = append(got, settle(b, last).Addrs[0].String())
	}
	if d := cmp.Diff([]string{"10.0.0.254", "10.0.1.1", "10.0.1.2"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	x := svc4("x")
	check(t, "nothing else", b.Decide(x), outcome{Refused: lb.PoolExhausted})
	x.Requested = addrs("10.0.1.0")
	check(t, "not by request either", b.Decide(x), outcome{Refused: lb.AddressNotInPool})
	x.Requested = nil

	// What is given back is found again; what it avoids never is.
	b.Release(lb.Key{Namespace: "default", Name: "a"})
	check(t, "given back", b.Decide(x), give("p", "10.0.0.254"))

	// Who holds such an address when the option is set loses it.
	b = bookOf(t, v4("p", "10.0.0.255-10.0.1.1"))
	settle(b, x)
	c := parse(t, poolSpec("p", []string{"10.0.0.255-10.0.1.1"}, noBuggy))
	b.SetPools(c.Pools, nil)
	check(t, "after the edit", settle(b, x), outcome{Addrs: []string{"10.0.1.1"}, Pool: "p", Cleared: lb.AddressNotInPool})
	check(t, "the old one stays unused", b.Decide(svc4("y")), outcome{Refused: lb.PoolExhausted})
}

func TestRequested(t *testing.T) {
	pools := []config.IPAddressPool{
		poolSpec("auto", []string{"10.0.0.0/24", "fd00::/120"}), poolSpec("hand", []string{"10.0.1.0/24", "fd01::/120"}, manual),
		poolSpec("other", []string{"10.0.2.0/24"}, onlyFor("elsewhere")),
	}
	for name, c := range map[string]struct {
		svc   *lb.Service
		pool  string
		addrs []string
		err   string
		want  outcome
	}{
		"pool":                       {svc4("s"), "hand", nil, "", give("hand", "10.0.1.0")},
		"pool, both families":        {dual("s", lb.RequireDualStack), "hand", nil, "", give("hand", "10.0.1.0", "fd01::")},
		"pool that is not there":     {svc4("s"), "nope", nil, "", outcome{Refused: lb.PoolNotFound}},
		"pool for others":            {svc4("s"), "other", nil, "", outcome{Refused: lb.PoolNotAllowed}},
		"pool without the family":    {svc6("s"), "other", nil, "", outcome{Refused: lb.PoolNotAllowed}},
		"address":                    {svc4("s"), "", []string{"10.0.0.77"}, "", give("auto", "10.0.0.77")},
		"address, not autoAssign":    {svc4("s"), "", []string{"10.0.1.77"}, "", give("hand", "10.0.1.77")},
		"address for others":         {svc4("s"), "", []string{"10.0.2.77"}, "", outcome{Refused: lb.PoolNotAllowed}},
		"address in no pool":         {svc4("s"), "", []string{"10.0.9.77"}, "", outcome{Refused: lb.AddressNotInPool}},
		"address and its pool":       {svc4("s"), "hand", []string{"10.0.1.77"}, "", give("hand", "10.0.1.77")},
		"address and another pool":   {svc4("s"), "hand", []string{"10.0.0.77"}, "", outcome{Refused: lb.AddressNotInPool}},
		"held address":               {svc4("s"), "", []string{"10.0.0.5"}, "", outcome{Refused: lb.AddressInUse}},
		"of the other family":        {svc4("s"), "", []string{"fd00::7"}, "", outcome{Refused: lb.FamilyMismatch}},
		"two for one family":         {svc4("s"), "", []string{"10.0.0.7", "fd00::7"}, "", outcome{Refused: lb.FamilyMismatch}},
		"one for two families":       {dual("s", lb.PreferDualStack), "", []string{"10.0.0.7"}, "", outcome{Refused: lb.FamilyMismatch}},
		"two in the user's order":    {dual("s", lb.RequireDualStack), "", []string{"fd00::7", "10.0.0.7"}, "", give("auto", "fd00::7", "10.0.0.7")},
		"two of two pools":           {dual("s", lb.RequireDualStack), "", []string{"fd00::7", "10.0.1.7"}, "", outcome{Refused: lb.AddressNotInPool}},
		"two of one family":          {dual("s", lb.RequireDualStack), "", []string{"10.0.0.8", "10.0.0.7"}, "", outcome{Refused: lb.FamilyMismatch}},
		"contradiction":              {svc4("s"), "", nil, "both", outcome{Refused: lb.InvalidRequest}},
		"contradiction, and no v6":   {svc6("s"), "other", nil, "both", outcome{Refused: lb.InvalidRequest}},
		"unmapped address is needed": {svc4("s"), "", []string{"::ffff:10.0.0.7"}, "", outcome{Refused: lb.AddressNotInPool}},
	} {
		b := bookOf(t, pools...)
		holder := svc4("holder")
		holder.Requested = addrs("10.0.0.5")
		settle(b, holder)
		svc := *c.svc
		svc.RequestedPool, svc.Requested, svc.RequestErr = c.pool, addrs(c.addrs...), c.err
		check(t, name, settle(b, &svc), c.want)
		check(t, name+", again", settle(b, &svc), c.want)
	}
}

// TestKeeps what satisfies the Service, in the order of its status.
func TestKeeps(t *testing.T) {
	pools := []config.IPAddressPool{
		poolSpec("a", []string{"10.0.0.0/24", "fd00::/120"}), poolSpec("b", []string{"10.0.1.0/24", "fd01::/120"}),
		poolSpec("hand", []string{"10.0.2.0/24"}, manual), poolSpec("four", []string{"10.0.3.0/24"}),
		poolSpec("other", []string{"10.0.4.0/24"}, onlyFor("elsewhere")),
	}
	edit := func(s *lb.Service, f func(*lb.Service)) *lb.Service { f(s); return s }
	want := func(o outcome, cleared lb.Reason) outcome { o.Cleared = cleared; return o }
	for name, c := range map[string]struct {
		svc  *lb.Service
		has  []string
		want outcome
	}{
		"one":                  {svc4("s"), []string{"10.0.1.9"}, give("b", "10.0.1.9")},
		"no autoAssign":        {svc4("s"), []string{"10.0.2.9"}, give("hand", "10.0.2.9")},
		"v6 first":             {dual("s", lb.RequireDualStack), []string{"fd01::9", "10.0.1.9"}, give("b", "fd01::9", "10.0.1.9")},
		"as requested":         {edit(dual("s", lb.RequireDualStack), func(s *lb.Service) { s.Requested = addrs("10.0.1.9", "fd01::9") }), []string{"fd01::9", "10.0.1.9"}, give("b", "fd01::9", "10.0.1.9")},
		"of the pool asked":    {edit(svc4("s"), func(s *lb.Service) { s.RequestedPool = "b" }), []string{"10.0.1.9"}, give("b", "10.0.1.9")},
		"upgrade":              {dual("s", lb.PreferDualStack), []string{"fd01::9"}, give("b", "fd01::9", "10.0.1.0")},
		"no upgrade there":     {dual("s", lb.PreferDualStack), []string{"10.0.3.9"}, outcome{Addrs: []string{"10.0.3.9"}, Pool: "four", Refused: lb.PoolExhausted}},
		"one, as requested":    {edit(dual("s", lb.PreferDualStack), func(s *lb.Service) { s.Requested = addrs("10.0.1.9") }), []string{"10.0.1.9"}, give("b", "10.0.1.9")},
		"bad request":          {edit(svc4("s"), func(s *lb.Service) { s.RequestErr = "both" }), []string{"10.0.1.9"}, outcome{Addrs: []string{"10.0.1.9"}, Pool: "b", Refused: lb.InvalidRequest}},
		"pool for others":      {svc4("s"), []string{"10.0.4.9"}, want(give("a", "10.0.0.0"), lb.PoolNotAllowed)},
		"in no pool":           {svc4("s"), []string{"10.0.9.9"}, want(give("a", "10.0.0.0"), lb.AddressNotInPool)},
		"two pools":            {dual("s", lb.RequireDualStack), []string{"10.0.0.9", "fd01::9"}, want(give("a", "10.0.0.9", "fd00::"), lb.AddressNotInPool)},
		"other family":         {svc6("s"), []string{"10.0.1.9"}, want(give("a", "fd00::"), lb.FamilyMismatch)},
		"two of one family":    {svc4("s"), []string{"10.0.1.8", "10.0.1.9"}, want(give("b", "10.0.1.8"), lb.FamilyMismatch)},
		"asks for another":     {edit(svc4("s"), func(s *lb.Service) { s.Requested = addrs("10.0.1.7") }), []string{"10.0.1.9"}, want(give("b", "10.0.1.7"), lb.InvalidRequest)},
		"asks another pool":    {edit(svc4("s"), func(s *lb.Service) { s.RequestedPool = "a" }), []string{"10.0.1.9"}, want(give("a", "10.0.0.0"), lb.PoolNotAllowed)},
		"asks an unknown pool": {edit(svc4("s"), func(s *lb.Service) { s.RequestedPool = "x" }), []string{"10.0.1.9"}, outcome{Refused: lb.PoolNotFound, Cleared: lb.PoolNotAllowed}},
		"no cluster IP":        {service("s"), []string{"10.0.1.9"}, outcome{Refused: lb.NoClusterIP, Cleared: lb.NoClusterIP}},
		"require, one IP":      {edit(svc4("s"), func(s *lb.Service) { s.FamilyPolicy = lb.RequireDualStack }), []string{"10.0.1.9"}, outcome{Refused: lb.NoClusterIP, Cleared: lb.NoClusterIP}},
		"bad request, no pool": {edit(svc4("s"), func(s *lb.Service) { s.RequestErr = "both" }), []string{"10.0.9.9"}, outcome{Refused: lb.InvalidRequest, Cleared: lb.AddressNotInPool}},
		// A change of families keeps the address that still serves.
		"one becomes two": {dual("s", lb.RequireDualStack), []string{"10.0.1.9"}, want(give("b", "10.0.1.9", "fd01::"), lb.FamilyMismatch)},
		"two become one":  {svc6("s"), []string{"10.0.1.9", "fd01::9"}, want(give("b", "fd01::9"), lb.FamilyMismatch)},
	} {
		b := bookOf(t, pools...)
		svc := *c.svc
		svc.Addrs = addrs(c.has...)
		if !b.Adopt(&svc) {
			t.Fatalf("%s: not adopted", name)
		}
		check(t, name, settle(b, &svc), c.want)
		c.want.Cleared = ""
		check(t, name+", again", settle(b, &svc), c.want)
	}
}

// TestBadRequestDoesNotKeepWhatAnotherHolds: it keeps an address only if it may.
func TestBadRequestDoesNotKeepWhatAnotherHolds(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/24"))
	a, c := svc4("a"), svc4("c")
	a.Addrs, c.Addrs, c.RequestErr = addrs("10.0.0.1"), addrs("10.0.0.1"), "both"
	if !b.Adopt(a) || b.Adopt(c) {
		t.Fatal("adoption is wrong")
	}
	check(t, "c", settle(b, c), outcome{Refused: lb.InvalidRequest, Cleared: lb.AddressInUse})
}

// TestStatusThatLags: the Book remembers what the API server does not show yet.
func TestStatusThatLags(t *testing.T) {
	b := bookOf(t, poolSpec("a", []string{"10.0.0.0/32"}, priority(1)), v4("b", "10.0.1.0/24"))
	first, svc := svc4("first"), svc4("svc")
	settle(b, first)
	check(t, "svc", b.Decide(svc), give("b", "10.0.1.0"))
	b.Settle(svc, addrs("10.0.1.0"))
	b.Release(first.Key) // the better pool has room now
	check(t, "before its status shows", b.Decide(svc), give("b", "10.0.1.0"))
	svc.RequestErr = "both"
	check(t, "with a bad request", b.Decide(svc), outcome{Addrs: []string{"10.0.1.0"}, Pool: "b", Refused: lb.InvalidRequest})
	svc.RequestErr, svc.RequestedPool = "", "a"
	check(t, "asking for another pool", b.Decide(svc), give("a", "10.0.0.0"))
}

// TestRefusalNamesTheFirstHolder by key, so that it is the same after a restart.
func TestRefusalNamesTheFirstHolder(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/32"))
	for _, n := range []string{"m", "z", "a"} {
		s := svc4(n)
		s.SharingKey, s.Ports = "k", nil
		settle(b, s)
	}
	x := svc4("x")
	x.Requested = addrs("10.0.0.0")
	d := b.Decide(x)
	check(t, "x", d, outcome{Refused: lb.AddressInUse})
	if want := "10.0.0.0 is held by default/a, and both must carry the same allow-shared-ip key to share it"; d.Refused.Message != want {
		t.Errorf("message %q, want %q", d.Refused.Message, want)
	}
}

func TestPoolEdits(t *testing.T) {
	b := bookOf(t, poolSpec("p", []string{"10.0.0.0/24", "fd00::/120"}))
	one, two := svc4("one"), dual("two", lb.PreferDualStack)
	one.Requested = addrs("10.0.0.200")
	settle(b, one)
	one.Requested = nil
	settle(b, two)
	set := func(pools ...config.IPAddressPool) {
		c := parse(t, pools...)
		b.SetPools(c.Pools, c.SetAside)
	}

	set(poolSpec("p", []string{"10.0.0.0/23", "fd00::/64"}))
	check(t, "widened", settle(b, one), give("p", "10.0.0.200"))
	check(t, "widened", settle(b, two), give("p", "10.0.0.0", "fd00::"))

	set(v4("p", "10.0.0.0/25"))
	check(t, "shrunk", settle(b, one), outcome{Addrs: []string{"10.0.0.1"}, Pool: "p", Cleared: lb.AddressNotInPool})
	check(t, "one family less", settle(b, two), outcome{Addrs: []string{"10.0.0.0"}, Pool: "p", Refused: lb.PoolExhausted, Cleared: lb.AddressNotInPool})

	set(v4("p", "10.0.0.0/25"), poolSpec("q", []string{"10.0.1.0/24", "fd01::/120"}))
	check(t, "no jump to a new dual pool", settle(b, two), outcome{Addrs: []string{"10.0.0.0"}, Pool: "p", Refused: lb.PoolExhausted})

	set(poolSpec("p", []string{"10.0.0.0/25", "fd00::/120"}))
	check(t, "its pool turns dual", settle(b, two), give("p", "10.0.0.0", "fd00::"))

	set(v4("p", "10.0.0.0/25"), poolSpec("q", []string{"10.0.1.0/24", "fd01::/120"}))
	check(t, "to another dual pool", settle(b, two), outcome{Addrs: []string{"10.0.1.0", "fd01::"}, Pool: "q", Cleared: lb.AddressNotInPool})

	set(v4("renamed", "10.0.0.0/25"))
	check(t, "renamed", settle(b, one), give("renamed", "10.0.0.1"))
	check(t, "deleted", settle(b, two), outcome{Addrs: []string{"10.0.0.0"}, Pool: "renamed", Refused: lb.PoolExhausted, Cleared: lb.AddressNotInPool})

	set()
	check(t, "no pools", settle(b, one), outcome{Refused: lb.NoPool, Cleared: lb.AddressNotInPool})
	set(v4("p", "10.0.0.0/25"))
	b.Release(two.Key)
	check(t, "again a pool", settle(b, one), give("p", "10.0.0.0"))
}

// TestSetAsidePoolKeepsItsHolders: by their own record, and gives nothing new.
func TestSetAsidePoolKeepsItsHolders(t *testing.T) {
	b := bookOf(t, poolSpec("p", []string{"10.0.0.0/24", "fd00::/120"}))
	svc := dual("s", lb.RequireDualStack)
	settle(b, svc)
	aside := map[string]bool{"p": true}
	keeps := give("p", "10.0.0.0", "fd00::")

	b.SetPools(nil, aside)
	check(t, "set aside", settle(b, svc), keeps)
	b = ipam.NewBook()
	b.SetPools(nil, aside)
	if !b.Adopt(svc) {
		t.Fatal("not adopted")
	}
	check(t, "across a restart", settle(b, svc), keeps)
	check(t, "nothing new", b.Decide(svc4("x")), outcome{Refused: lb.NoPool})
	x := svc4("x")
	x.RequestedPool = "p"
	check(t, "nothing new by pool", b.Decide(x), outcome{Refused: lb.PoolNotFound})
	x.RequestedPool, x.Requested, x.Pool = "", addrs("10.0.0.9"), "p"
	check(t, "nothing new by address", b.Decide(x), outcome{Refused: lb.AddressNotInPool})

	// The pool that set it aside has the addresses now, but is for others.
	c := parse(t, poolSpec("older", []string{"10.0.0.0/16"}, onlyFor("elsewhere")))
	b.SetPools(c.Pools, aside)
	check(t, "beside the older pool", settle(b, svc), keeps)
	x.Key.Namespace, x.Requested = "elsewhere", svc.Addrs[:1]
	check(t, "which cannot give what is held", b.Decide(x), outcome{Refused: lb.AddressInUse})
	x.Requested = nil
	check(t, "and gives the next", b.Decide(x), give("older", "10.0.0.1"))

	// One address held, one asked for in addition: only the first is its own.
	y := *svc
	y.Requested = addrs("10.0.0.0", "fd09::1")
	check(t, "a mixture", b.Decide(&y), outcome{Refused: lb.AddressNotInPool, Cleared: lb.InvalidRequest})

	b.SetPools(nil, nil)
	check(t, "deleted", settle(b, svc), outcome{Refused: lb.NoPool, Cleared: lb.AddressNotInPool})
}

func TestRelabelledNamespace(t *testing.T) {
	b := bookOf(t, poolSpec("blue", []string{"10.0.0.0/24"}, func(p *config.IPAddressPool) {
		p.Allocation = &config.ServiceAllocation{NamespaceSelectors: []lb.Selector{{MatchLabels: map[string]string{"team": "blue"}}}}
	}), v4("for-all", "10.0.1.0/24"))
	svc := svc4("s")
	check(t, "not blue", settle(b, svc), give("for-all", "10.0.1.0"))
	svc.NamespaceLabels = map[string]string{"team": "blue"}
	check(t, "blue, but satisfied", settle(b, svc), give("for-all", "10.0.1.0"))
	svc.RequestedPool = "blue"
	check(t, "asks for blue", settle(b, svc), outcome{Addrs: []string{"10.0.0.0"}, Pool: "blue", Cleared: lb.PoolNotAllowed})
	svc.RequestedPool = ""
	check(t, "stays", settle(b, svc), give("blue", "10.0.0.0"))
	svc.NamespaceLabels = nil
	check(t, "no longer blue", settle(b, svc), outcome{Addrs: []string{"10.0.1.0"}, Pool: "for-all", Cleared: lb.PoolNotAllowed})
}

// TestAdoptionComesFirst: the second of two that claim one address moves.
func TestAdoptionComesFirst(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/24"))
	a, c := svc4("a"), svc4("c")
	a.Addrs, c.Addrs = addrs("10.0.0.0"), addrs("10.0.0.0")
	first, again, other := b.Adopt(a), b.Adopt(a), b.Adopt(c)
	if !first || !again || other {
		t.Errorf("adopted the first %t, again %t, the other %t; want true, true, false", first, again, other)
	}
	check(t, "pending", settle(b, svc4("x")), give("p", "10.0.0.1"))
	check(t, "c", settle(b, c), outcome{Addrs: []string{"10.0.0.2"}, Pool: "p", Cleared: lb.AddressInUse})
	check(t, "a", settle(b, a), give("p", "10.0.0.0"))
}
