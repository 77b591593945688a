package kube

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
)

func known() *explain.Known {
	lan := netip.MustParsePrefix("10.0.0.0/24")
	addr := netip.MustParseAddr("10.0.0.9")
	return &explain.Known{
		Node: "n1", Proxy: "refused", ProxyAsked: true,
		View: &liveness.View{
			Nodes: map[string]liveness.Node{
				"n1": {Member: true, Facts: &liveness.Facts{
					Node: "n1", Version: 1, Incarnation: 1 << 60, Phase: liveness.Serving,
					Links: []liveness.Link{{Name: "eth0", MAC: [6]byte{2, 0, 0, 0, 0, 1}, Carrier: true, IPv4: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}},
				}},
				"n2": {Dead: map[liveness.Segment]bool{lan: true}, SpeakerDown: true, Gone: true},
			},
			CutOff: map[liveness.Segment]bool{lan: true},
		},
		Claims: map[netip.Addr][]liveness.Claimant{addr: {{Node: "n1", Term: 7}}},
	}
}

func TestKnownSurvivesTheWire(t *testing.T) {
	text, err := json.Marshal(known())
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseKnown(text)
	if err != nil || !reflect.DeepEqual(got, known()) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := parseKnown([]byte(`{"view":{"Nodes":{"n1":{"Dead":{"junk":true}}}}}`)); err == nil {
		t.Error("it takes a segment that is none")
	}
}

// FuzzParseKnown: whatever a speaker says, it can be explained with.
func FuzzParseKnown(f *testing.F) {
	text, err := json.Marshal(known())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"node":"n2","view":{"Nodes":{"n1":{"Facts":{"Links":[{"Addrs":["10.0.0.1/24"]}]}}}},"claims":{"10.0.0.9":[{},{}]}}`))
	f.Add([]byte(`null`))
	key := lb.Key{Namespace: "a", Name: "b"}
	svc := plan.Service{Service: lb.Service{Key: key, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}, Endpoints: []lb.Endpoint{{Node: "n1", Serving: true}}}
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseKnown(text)
		if err != nil {
			return
		}
		c := &explain.Cluster{
			Nodes: []explain.Node{{Node: lb.Node{Name: "n1"}}, {Node: lb.Node{Name: "n2"}}}, Services: []plan.Service{svc},
			Known: map[string]*explain.Known{"n1": k},
		}
		w := explain.New(c)
		if w.Service(key) == nil || w.Status() == nil || len(w.Doctor()) == 0 {
			t.Error("it says nothing")
		}
	})
}
