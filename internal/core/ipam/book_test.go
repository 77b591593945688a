package ipam_test

import (
	"math"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

// poolSpec makes a pool; edits change it.
func poolSpec(name string, addresses []string, edits ...func(*config.IPAddressPool)) config.IPAddressPool {
	p := config.IPAddressPool{Meta: config.Meta{Name: name}, Addresses: addresses, AutoAssign: true}
	for _, e := range edits {
		e(&p)
	}
	return p
}

func v4(name, addresses string) config.IPAddressPool { return poolSpec(name, []string{addresses}) }

func manual(p *config.IPAddressPool)  { p.AutoAssign = false }
func noBuggy(p *config.IPAddressPool) { p.AvoidBuggyIPs = true }

func priority(n int) func(*config.IPAddressPool) {
	return func(p *config.IPAddressPool) { p.Allocation = &config.ServiceAllocation{Priority: n} }
}

func onlyFor(namespace string) func(*config.IPAddressPool) {
	return func(p *config.IPAddressPool) {
		p.Allocation = &config.ServiceAllocation{Namespaces: []string{namespace}}
	}
}

// parse refuses bad pools: those are for the tests of config.
func parse(t testing.TB, pools ...config.IPAddressPool) *config.Config {
	t.Helper()
	c := config.Parse(config.Objects{Pools: pools}, nil)
	if len(c.Problems) > 0 {
		t.Fatal(c.Problems)
	}
	return c
}

func bookOf(t testing.TB, pools ...config.IPAddressPool) *ipam.Book {
	t.Helper()
	b := ipam.NewBook()
	c := parse(t, pools...)
	b.SetPools(c.Pools, c.SetAside)
	return b
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// Kinds of Services, by their cluster IPs.
func svc4(name string) *lb.Service { return service(name, "10.96.0.1") }
func svc6(name string) *lb.Service { return service(name, "fd00:96::1") }

func service(name string, clusterIPs ...string) *lb.Service {
	return &lb.Service{
		Key: lb.Key{Namespace: "default", Name: name}, ClusterIPs: addrs(clusterIPs...), FamilyPolicy: lb.SingleStack,
		Ports: []lb.Port{{Protocol: "TCP", Number: 80}},
	}
}

func dual(name string, policy lb.FamilyPolicy) *lb.Service {
	s := service(name, "10.96.0.1", "fd00:96::1")
	s.FamilyPolicy = policy
	return s
}

// settle decides on svc and writes the result where the next decision finds it,
// as the controller does.
func settle(b *ipam.Book, svc *lb.Service) ipam.Decision {
	d := b.Decide(svc)
	b.Settle(svc, d.Addrs)
	svc.Addrs, svc.Pool = d.Addrs, d.Pool
	return d
}

// outcome is a Decision in few words, for tables.
type outcome struct {
	Addrs            []string
	Pool             string
	Refused, Cleared lb.Reason
}

func short(d ipam.Decision) outcome {
	o := outcome{Pool: d.Pool}
	for _, a := range d.Addrs {
		o.Addrs = append(o.Addrs, a.String())
	}
	if d.Refused != nil {
		o.Refused = d.Refused.Reason
	}
	if d.Cleared != nil {
		o.Cleared = d.Cleared.Reason
	}
	return o
}

func check(t *testing.T, what string, got ipam.Decision, want outcome) {
	t.Helper()
	for _, r := range []*ipam.Refusal{got.Refused, got.Cleared} {
		if r != nil && r.Message == "" {
			t.Errorf("%s: %s without a message", what, r.Reason)
		}
	}
	if d := cmp.Diff(want, short(got), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func give(pool string, addrs ...string) outcome { return outcome{Addrs: addrs, Pool: pool} }

// TestSharingRule is section 2.5: equal keys, equal backends, no common port.
func TestSharingRule(t *testing.T) {
	type user struct {
		key, backend string
		ports        []lb.Port
	}
	tcp80, tcp443, udp80 := lb.Port{Protocol: "TCP", Number: 80}, lb.Port{Protocol: "TCP", Number: 443}, lb.Port{Protocol: "UDP", Number: 80}
	one := []lb.Port{tcp80}
	other := []lb.Port{tcp443}
	for name, c := range map[string]struct {
		a, b user
		want lb.Reason
	}{
		"Cluster and Cluster":               {user{"k", "", one}, user{"k", "", other}, ""},
		"Local, one selector":               {user{"k", "app=a", one}, user{"k", "app=a", other}, ""},
		"Local, two selectors":              {user{"k", "app=a", one}, user{"k", "app=b", other}, lb.BackendDiffers},
		"Local and Cluster":                 {user{"k", "app=a", one}, user{"k", "", other}, lb.BackendDiffers},
		"Local without selector, Cluster":   {user{"k", "", one}, user{"k", "", other}, ""},
		"same port":                         {user{"k", "", one}, user{"k", "", one}, lb.PortConflict},
		"same number, another protocol":     {user{"k", "", one}, user{"k", "", []lb.Port{udp80}}, ""},
		"one port of many":                  {user{"k", "", []lb.Port{tcp443, tcp80}}, user{"k", "", []lb.Port{tcp80, udp80}}, lb.PortConflict},
		"no ports":                          {user{"k", "", nil}, user{"k", "", nil}, ""},
		"another key":                       {user{"k", "", one}, user{"j", "", other}, lb.SharingKeyDiffers},
		"only the holder shares":            {user{"k", "", one}, user{"", "", other}, lb.AddressInUse},
		"only the newcomer shares":          {user{"", "", one}, user{"k", "", other}, lb.AddressInUse},
		"nobody shares":                     {user{"", "", one}, user{"", "", other}, lb.AddressInUse},
		"another key, another backend":      {user{"k", "app=a", one}, user{"j", "", one}, lb.SharingKeyDiffers},
		"the backend is told before a port": {user{"k", "app=a", one}, user{"k", "", one}, lb.BackendDiffers},
	} {
		t.Run(name, func(t *testing.T) {
			b := bookOf(t, v4("p", "10.0.0.0/30"))
			apply := func(s *lb.Service, u user) *lb.Service {
				s.SharingKey, s.HasSharing, s.Backend, s.Ports = u.key, u.key != "", u.backend, u.ports
				return s
			}
			first := apply(svc4("first"), c.a)
			check(t, "first", settle(b, first), give("p", "10.0.0.0"))

			// By request the rule shows its reason ...
			second := apply(svc4("second"), c.b)
			second.Key.Namespace = "elsewhere" // which does not matter
			second.Requested = first.Addrs
			want := give("p", "10.0.0.0")
			if c.want != "" {
				want = outcome{Refused: c.want}
			}
			check(t, "requested", b.Decide(second), want)

			// ... without one those that can share do, and the others go elsewhere ...
			second.Requested = nil
			want = give("p", "10.0.0.0")
			if c.want != "" {
				want = give("p", "10.0.0.1")
			}
			check(t, "automatic", b.Decide(second), want)

			// ... and from a status it is adopted or not.
			second.Addrs = first.Addrs
			if got := b.Adopt(second); got != (c.want == "") {
				t.Errorf("adopted: %v", got)
			}
			want.Cleared = c.want
			check(t, "after adoption", b.Decide(second), want)
		})
	}
}

// TestSharingIsEvaluatedAnew when a sharer changes: the one that changes loses.
func TestSharingIsEvaluatedAnew(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/30"))
	a, c := svc4("a"), svc4("c")
	a.SharingKey, c.SharingKey = "k", "k"
	c.Ports = []lb.Port{{Protocol: "TCP", Number: 443}}
	check(t, "a", settle(b, a), give("p", "10.0.0.0"))
	check(t, "c joins", settle(b, c), give("p", "10.0.0.0"))

	c.Ports = a.Ports
	check(t, "c takes a's port", settle(b, c), outcome{Addrs: []string{"10.0.0.1"}, Pool: "p", Cleared: lb.PortConflict})
	c.Ports = nil
	check(t, "c stays where it is", settle(b, c), give("p", "10.0.0.1"))
	c.SharingKey = "j"
	check(t, "the only user may change its key", settle(b, c), give("p", "10.0.0.1"))

	d := svc4("d")
	d.SharingKey, d.Ports = "j", []lb.Port{{Protocol: "TCP", Number: 443}}
	check(t, "d joins c", settle(b, d), give("p", "10.0.0.1"))
	d.Backend = "app=d"
	check(t, "d turns Local", settle(b, d), outcome{Addrs: []string{"10.0.0.2"}, Pool: "p", Cleared: lb.BackendDiffers})

	// Releasing one of two keeps the address; releasing both frees it.
	c.SharingKey = ""
	settle(b, c)
	b.Release(c.Key)
	check(t, "e", settle(b, svc4("e")), give("p", "10.0.0.1"))
}

func TestReleaseKeepsSharedAddress(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/31"))
	a, c := svc4("a"), svc4("c")
	a.SharingKey, c.SharingKey, c.Ports = "k", "k", nil
	settle(b, a)
	settle(b, c)
	if !b.Release(a.Key) || b.Release(a.Key) {
		t.Error("Release says whether there was something")
	}
	check(t, "another", b.Decide(svc4("x")), give("p", "10.0.0.1"))
	check(t, "c", b.Decide(c), give("p", "10.0.0.0"))
	b.Release(c.Key)
	check(t, "another", b.Decide(svc4("x")), give("p", "10.0.0.0"))
}

// TestStatusThatNamesAnAddressTwice is nothing to stumble over.
func TestStatusThatNamesAnAddressTwice(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/31"))
	a, c := svc4("a"), svc4("c")
	a.SharingKey, c.SharingKey, c.Ports = "k", "k", nil
	a.Addrs, c.Addrs = addrs("10.0.0.0", "10.0.0.0"), addrs("10.0.0.0")
	if !b.Adopt(a) || !b.Adopt(c) {
		t.Fatal("not adopted")
	}
	b.Release(a.Key)
	d := svc4("d")
	d.SharingKey, d.Ports = "k", []lb.Port{{Protocol: "UDP", Number: 1}}
	check(t, "the key is still known", b.Decide(d), give("p", "10.0.0.0"))
	b.Release(c.Key)
	check(t, "x", b.Decide(svc4("x")), give("p", "10.0.0.0"))
}

func TestUsage(t *testing.T) {
	b := bookOf(t,
		poolSpec("dual", []string{"10.0.0.0/24", "fd00::/120", "10.0.1.0-10.0.1.9"}),
		poolSpec("huge", []string{"fd01::/16", "fd02::-fd02::1"}),
		poolSpec("no-buggy", []string{"10.0.3.250-10.0.5.1", "fd03::/128"}, noBuggy),
	)
	want := []ipam.Usage{
		{Pool: "dual", Total4: 266, Total6: 256},
		{Pool: "huge", Total6: math.MaxInt64},
		{Pool: "no-buggy", Total4: 264 - 4, Total6: 1}, // 3.255 4.0 4.255 5.0
	}
	if d := cmp.Diff(want, b.Usage()); d != "" {
		t.Errorf("nothing held (-want +got):\n%s", d)
	}
	a, c := dual("a", lb.RequireDualStack), dual("c", lb.RequireDualStack)
	a.SharingKey, c.SharingKey, c.Ports = "k", "k", nil
	settle(b, a)
	settle(b, c) // shares both: counted once
	six := svc6("six")
	six.RequestedPool = "huge"
	settle(b, six)
	stray := svc4("stray") // from no pool
	stray.Addrs = addrs("203.0.113.1")
	b.Adopt(stray)
	want[0].Assigned4, want[0].Assigned6, want[1].Assigned6 = 1, 1, 1
	if d := cmp.Diff(want, b.Usage()); d != "" {
		t.Errorf("some held (-want +got):\n%s", d)
	}
	b.Release(a.Key)
	b.Release(six.Key)
	want[1].Assigned6 = 0
	if d := cmp.Diff(want, b.Usage()); d != "" {
		t.Errorf("some released (-want +got):\n%s", d)
	}
}

func TestHolding(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/24"))
	a := svc4("a")
	a.SharingKey, a.Backend = "k", "app=a"
	settle(b, a)
	h := b.Holding(a.Key)
	holding := func(list []netip.Addr, key, backend string, ports []lb.Port) ipam.Holding {
		return ipam.Holding{Holder: lb.Holder{SharingKey: key, Backend: backend, Ports: ports}, Addrs: list}
	}
	if !h.Equal(holding(addrs("10.0.0.0"), "k", "app=a", a.Ports)) {
		t.Errorf("%+v", h)
	}
	for _, o := range []ipam.Holding{
		{},
		holding(h.Addrs, "j", h.Backend, h.Ports),
		holding(h.Addrs, "k", "", h.Ports),
		holding(h.Addrs, "k", h.Backend, nil),
		holding(nil, "k", h.Backend, h.Ports),
	} {
		if h.Equal(o) {
			t.Errorf("%+v equals %+v", h, o)
		}
	}
	settle(b, &lb.Service{Key: a.Key}) // without cluster IPs
	if h := b.Holding(a.Key); len(h.Addrs) != 0 {
		t.Errorf("after it was cleared: %+v", h)
	}
}
