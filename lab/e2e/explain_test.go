package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/barelb/barelb/lab/system"
)

// explanation is what kubectl barelb explain says, as far as tests look at it.
type explanation struct {
	Owner  string   `json:"owner"`
	First  *finding `json:"firstBrokenLink"`
	Warned *finding `json:"firstWarning"`
	Next   []string `json:"next"`
}

// finding is one thing that kubectl barelb found.
type finding struct {
	Level    string   `json:"level"`
	Check    string   `json:"check"`
	Reason   string   `json:"reason"`
	What     string   `json:"what"`
	Evidence []string `json:"evidence"`
	Remedy   string   `json:"remedy"`
}

// barelb runs a command for users on the cluster.
func (l *lab) barelb(ctx context.Context, args ...string) (string, error) {
	binary, err := input("BARELB_BIN", "../../bin/barelb", "run `make build`")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, binary, append(args, "--kubeconfig", l.c.Kubeconfig())...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return string(out), nil
}

func (l *lab) explain(ctx context.Context, service string) (explanation, error) {
	var e explanation
	out, err := l.barelb(ctx, "explain", "service", namespace+"/"+service, "-o", "json")
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal([]byte(out), &e)
}

// TestWhatIfComesTrue: what-if says who takes over from a node, and when its link is cut,
// those nodes do: by rank, by preference, by who owned an address before, and by where
// endpoints are.
func TestWhatIfComesTrue(t *testing.T) {
	l := frr(t)
	addrs := map[string]netip.Addr{}
	serve := func(name, addr string, s system.Service, adv ...string) {
		l.apply(t, pool(name, []string{addr}), object("L2Advertisement", name, append([]string{"ipAddressPools: [" + name + "]"}, adv...)...))
		s.Name = name
		addrs[name] = l.serve(t, s, name)
	}
	serve("ahead", "192.168.1.248/32", system.Service{})
	owner := l.owner(t, addrs["ahead"])
	others := l.without(owner)
	prefer := func(node string) string {
		return "preferredNodeSelectors: [{weight: 5, preference: {matchLabels: {kubernetes.io/hostname: " + node + "}}}]"
	}
	serve("sticky", "192.168.1.249/32", system.Service{}, onNodes(others...), "failback: Never")
	l.owner(t, addrs["sticky"])
	serve("second", "192.168.1.250/32", system.Service{}, onNodes(owner, others[0]), prefer(owner))
	serve("third", "192.168.1.251/32", system.Service{}, onNodes(owner, others[1]), prefer(owner))
	serve("local", "192.168.1.252/32", system.Service{Local: true}, prefer(owner))
	l.endpointsOn(t, "local", owner, others[1])
	for _, name := range []string{"second", "third", "local"} {
		l.ownerIs(t, addrs[name], owner)
	}
	stays := l.owner(t, addrs["sticky"])

	out, err := l.barelb(t.Context(), "what-if", "--without", owner, "-o", "json")
	must(t, err)
	var r struct {
		Moves []struct{ Service, Effect, From, To string }
		Notes []string
	}
	must(t, json.Unmarshal([]byte(out), &r))
	heirs := map[string]string{"sticky": stays}
	for _, m := range r.Moves {
		if m.Effect != "moves" || m.From != owner {
			t.Errorf("what-if says %+v", m)
		}
		heirs[strings.TrimPrefix(m.Service, namespace+"/")] = m.To
	}
	if len(heirs) != len(addrs) || len(r.Notes) > 0 {
		t.Fatalf("what-if does not say of all who takes over from %s, or did not ask the speakers: %s", owner, out)
	}
	t.Logf("without %s: %v", owner, heirs)
	l.undo(t, "restore the link", func(context.Context) error { return l.c.Restore(owner) })
	must(t, l.c.Cut(owner))
	for name, heir := range heirs {
		l.ownerIs(t, addrs[name], heir)
	}
}
