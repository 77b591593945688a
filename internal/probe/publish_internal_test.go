package probe

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
)

// White box: the log and the metrics of a report that no kernel has to be asked for.
func TestReportsAreToldOnce(t *testing.T) {
	var log strings.Builder
	handler := slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})
	reg := prometheus.NewPedanticRegistry()
	p := New(Config{Node: "node1", Log: slog.New(handler), Registerer: reg})
	conflict := func(addr, by string) lb.WireConflict {
		return lb.WireConflict{Addr: netip.MustParseAddr(addr), MAC: "02:00:00:00:00:09", Node: by, Link: "eth0"}
	}
	one, two := conflict("192.0.2.1", "node1"), conflict("192.0.2.2", "node1")
	for _, s := range []struct {
		name    string
		do      func()
		log     string
		changed bool
		gauge   float64
	}{
		{"nothing, which is news", func() { p.publish(wire.Report{}) }, "", true, 0},
		{"nothing again", func() { p.publish(wire.Report{}) }, "", false, 0},
		{
			"two", func() { p.publish(wire.Report{InUse: []lb.WireConflict{one, two}}) },
			`msg="address is in use by somebody outside the cluster" addr=192.0.2.1 mac=02:00:00:00:00:09 link=eth0
msg="address is in use by somebody outside the cluster" addr=192.0.2.2 mac=02:00:00:00:00:09 link=eth0
`, true, 2,
		},
		{
			"one ends", func() { p.publish(wire.Report{InUse: []lb.WireConflict{two}}) },
			`msg="address is not in conflict any more" addr=192.0.2.1 mac=02:00:00:00:00:09 link=eth0
`, true, 1,
		},
		{"another node was faster", func() {
			p.Apply(wire.Want{Node: "node1", Conflicts: []lb.WireConflict{conflict("192.0.2.2", "node2")}})
			p.publish(wire.Report{})
		}, "", true, 0},
	} {
		log.Reset()
		s.do()
		if log.String() != s.log {
			t.Errorf("%s: log\n%swant\n%s", s.name, log.String(), s.log)
		}
		changed := false
		select {
		case <-p.Changed():
			changed = true
		default:
		}
		if changed != s.changed {
			t.Errorf("%s: changed is %v, want %v", s.name, changed, s.changed)
		}
		if got := gauge(t, reg, "barelb_speaker_address_conflicts"); got != s.gauge {
			t.Errorf("%s: gauge is %v, want %v", s.name, got, s.gauge)
		}
	}
}

func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}
