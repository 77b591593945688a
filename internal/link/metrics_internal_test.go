package link

import (
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestCollector(t *testing.T) {
	w := New(slog.New(slog.DiscardHandler))
	reg := prometheus.NewRegistry()
	if err := reg.Register(NewCollector(w, []*regexp.Regexp{regexp.MustCompile("^veth")})); err != nil {
		t.Fatal(err)
	}
	gather := func() []string {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range families {
			for _, m := range f.GetMetric() {
				text := f.GetName()
				for _, l := range m.GetLabel() {
					text += fmt.Sprintf(" %s=%q", l.GetName(), l.GetValue())
				}
				out = append(out, fmt.Sprint(text, " ", m.GetGauge().GetValue()))
			}
		}
		slices.Sort(out)
		return out
	}
	if got := gather(); len(got) != 0 {
		t.Errorf("before the first listing: %s", got)
	}
	addrs := []netip.Prefix{netip.MustParsePrefix("192.168.1.101/24"), netip.MustParsePrefix("fe80::1/64")}
	w.publish(Snapshot{
		{Name: "lo", Loopback: true, Up: true}, {Name: "eth0", Up: true, Addrs: addrs}, {Name: "eth1"}, {Name: "veth12", Up: true},
	})
	want := []string{
		`barelb_link_up link="eth0" prefix="192.168.1.101/24" 1`, `barelb_link_up link="eth0" prefix="fe80::1/64" 1`, `barelb_link_up link="eth1" prefix="" 0`,
	}
	if diff := cmp.Diff(want, gather()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
