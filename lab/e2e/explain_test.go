package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/barelb/barelb/lab/system"
)

// explanation is what kubectl barelb explain says, as far as tests look at it.
type explanation struct {
	Owner string `json:"owner"`
	First *struct {
		Check  string `json:"check"`
		Reason string `json:"reason"`
		What   string `json:"what"`
		Remedy string `json:"remedy"`
	} `json:"firstBrokenLink"`
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
	out, err := l.barelb(ctx, "explain", "service", namespace+"/"+service, "--live=false", "-o", "json")
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal([]byte(out), &e)
}

// wantLink waits until explain names a link as the first that is broken; "" for none.
func (l *lab) wantLink(t *testing.T, service, check, reason string) {
	t.Helper()
	eventually(t, fmt.Sprintf("explain %s: %s %s", service, check, reason), func() error {
		e, err := l.explain(t.Context(), service)
		switch {
		case err != nil:
			return err
		case e.First == nil && check == "":
			return nil
		case e.First == nil:
			return fmt.Errorf("it calls nothing broken")
		case e.First.Check != check || e.First.Reason != reason || e.First.Remedy == "":
			return fmt.Errorf("it says %+v", *e.First)
		}
		return nil
	})
}

// TestExplainNamesTheFault breaks a Service that works in one way after the other.
func TestExplainNamesTheFault(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("why", []string{"192.168.1.247/32"}), object("L2Advertisement", "why", "ipAddressPools: [why]"))
	addr := l.serve(t, system.Service{Name: "why"}, "why")
	owner := l.owner(t, addr)
	l.wantLink(t, "why", "", "")
	if e, err := l.explain(t.Context(), "why"); err != nil || e.Owner != owner {
		t.Errorf("%s answers, and explain says that %q owns the address (%v)", owner, e.Owner, err)
	}

	l.apply(t, object("L2Advertisement", "why", "ipAddressPools: [why]\n  nodeSelectors: [{matchLabels: {no: such}}]"))
	l.wantLink(t, "why", "nodes (layer2)", "SelectorsMatchNoNode")
	l.apply(t, object("L2Advertisement", "why", "ipAddressPools: [why]"))
	l.wantLink(t, "why", "", "")

	for _, node := range l.c.Nodes() {
		l.changeNode(t, node, exclude, include)
	}
	l.wantLink(t, "why", "nodes (layer2)", "NodeExcluded")
	for _, node := range l.c.Nodes() {
		must(t, l.patchNode(t.Context(), node, include))
	}
	l.wantLink(t, "why", "", "")

	// Another Service wants the only address.
	l.create(t, system.Service{Name: "late", Annotations: map[string]string{fromPool: "why"}})
	l.wantLink(t, "late", "address", "PoolExhausted")
	out, err := l.barelb(t.Context(), "status", "--wrong", "--live=false")
	if err != nil || !strings.Contains(out, namespace+"/late") || !strings.Contains(out, "PoolExhausted") {
		t.Errorf("status: %v\n%s", err, out)
	}
}

// TestWhatIfComesTrue: what-if says who takes over from a node, and when its link is cut,
// that node does.
func TestWhatIfComesTrue(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("ahead", []string{"192.168.1.248/32"}), object("L2Advertisement", "ahead", "ipAddressPools: [ahead]"))
	addr := l.serve(t, system.Service{Name: "ahead"}, "ahead")
	owner := l.owner(t, addr)
	out, err := l.barelb(t.Context(), "what-if", "--without", owner, "-o", "json")
	must(t, err)
	var r struct {
		Moves []struct{ Service, From, To string }
	}
	must(t, json.Unmarshal([]byte(out), &r))
	heir := ""
	for _, m := range r.Moves {
		if m.Service == namespace+"/ahead" && m.From == owner {
			heir = m.To
		}
	}
	if heir == "" {
		t.Fatalf("what-if does not say who takes over from %s: %s", owner, out)
	}
	must(t, l.c.Cut(owner))
	l.ownerIs(t, addr, heir)
	must(t, l.c.Restore(owner))
}
