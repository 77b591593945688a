package migrate_test

import (
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/migrate"
)

func levels(found []explain.Finding) map[lb.Reason]explain.Level {
	out := map[lb.Reason]explain.Level{}
	for _, f := range found {
		out[f.Reason] = f.Level
	}
	return out
}

// TestEmptyClusterIsSafe: where there is no MetalLB, nothing can be lost.
func TestEmptyClusterIsSafe(t *testing.T) {
	found := migrate.Check(&migrate.Facts{Cluster: &explain.Cluster{Namespace: "metallb-system"}})
	if !migrate.Safe(found) || len(found) == 0 {
		t.Errorf("%+v", found)
	}
}

// TestGapsAreNotSafe: whatever could not be read and decides is not called safe.
func TestGapsAreNotSafe(t *testing.T) {
	for _, from := range []explain.Source{migrate.FromCRDs, migrate.FromSecrets, migrate.FromWebhooks, explain.FromWorkloads, explain.FromConfig} {
		f := &migrate.Facts{Cluster: &explain.Cluster{Gaps: []explain.Gap{{From: from, Needs: "list something", Right: true}}}}
		if migrate.Safe(migrate.Check(f)) {
			t.Errorf("safe without %s", from)
		}
	}
}

// TestCRDs: what uninstalling a release does to CRDs.
func TestCRDs(t *testing.T) {
	for name, c := range map[string]struct {
		crd  migrate.CRD
		want map[lb.Reason]explain.Level
	}{
		"of nobody":       {migrate.CRD{Name: "x", Additions: true}, map[lb.Reason]explain.Level{}},
		"of a release":    {migrate.CRD{Name: "x", Release: "a/b", Additions: true}, map[lb.Reason]explain.Level{migrate.CRDsDeleted: explain.Broken}},
		"marked keep":     {migrate.CRD{Name: "x", Release: "a/b", Keep: true, Additions: true}, map[lb.Reason]explain.Level{migrate.CRDsOwned: explain.Warning}},
		"of MetalLB":      {migrate.CRD{Name: "x"}, map[lb.Reason]explain.Level{migrate.FieldsPruned: explain.Info}},
		"with conversion": {migrate.CRD{Name: "x", Additions: true, Converts: true}, map[lb.Reason]explain.Level{migrate.ConversionWebhook: explain.Warning}},
	} {
		got := levels(migrate.Check(&migrate.Facts{Cluster: &explain.Cluster{}, CRDs: []migrate.CRD{c.crd}}))
		delete(got, "")
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		for reason, level := range c.want {
			if got[reason] != level {
				t.Errorf("%s: %s is %q, want %q", name, reason, got[reason], level)
			}
		}
	}
}

// TestConversionMissing: with BareLB's CRDs MetalLB's webhook refuses everything.
func TestConversionMissing(t *testing.T) {
	for name, c := range map[string]struct {
		replicas int
		converts bool
		mode     string
		want     explain.Level
	}{
		"BareLB's CRDs":         {1, false, "enabled", explain.Warning},
		"MetalLB's":             {1, true, "enabled", ""},
		"its controller is off": {0, false, "enabled", ""},
		"it has no webhook":     {1, false, "disabled", ""},
	} {
		f := &migrate.Facts{
			Cluster: &explain.Cluster{Namespace: "metallb-system"}, CRDs: []migrate.CRD{{Name: "bgppeers.metallb.io", Converts: c.converts, Additions: true}},
			Webhooks: []string{"metallb-webhook-configuration"},
			Workloads: []migrate.Workload{{
				Object: migrate.Object{Kind: "Deployment", Namespace: "metallb-system", Name: "metallb-controller"}, Maker: migrate.MetalLB, Component: "controller",
				Replicas: c.replicas, Flags: map[string]string{"webhook-mode": c.mode},
			}},
		}
		if got := levels(migrate.Check(f)); got[migrate.ConversionMissing] != c.want {
			t.Errorf("%s: %q, want %q", name, got[migrate.ConversionMissing], c.want)
		}
	}
}

// TestNative: one object that MetalLB's native mode refuses takes the whole configuration
// from a speaker that starts.
func TestNative(t *testing.T) {
	second, none := time.Second, time.Duration(0)
	peer := func(change func(*config.BGPPeer)) config.Objects {
		p := config.BGPPeer{Meta: config.Meta{Name: "p"}}
		change(&p)
		return config.Objects{Peers: []config.BGPPeer{p}}
	}
	six := config.IPAddressPool{Meta: config.Meta{Name: "six", Labels: map[string]string{"v": "6"}}, Addresses: []string{"fd00::/120"}}
	advertised := func(a config.BGPAdvertisement) config.Objects {
		return config.Objects{Pools: []config.IPAddressPool{six}, BGP: []config.BGPAdvertisement{a}}
	}
	for name, c := range map[string]struct {
		objects config.Objects
		refused bool
	}{
		"nothing":           {},
		"BFDProfile":        {config.Objects{BFDProfiles: []config.BFDProfile{{Meta: config.Meta{Name: "fast"}}}}, true},
		"plain peer":        {peer(func(p *config.BGPPeer) { p.HoldTime, p.MultiHop = &second, true }), false},
		"no keepalives":     {peer(func(p *config.BGPPeer) { p.KeepaliveTime = &none }), false},
		"keepalives":        {peer(func(p *config.BGPPeer) { p.KeepaliveTime = &second }), true},
		"BFD":               {peer(func(p *config.BGPPeer) { p.BFDProfile = "fast" }), true},
		"VRF":               {peer(func(p *config.BGPPeer) { p.VRF = "red" }), true},
		"connect time":      {peer(func(p *config.BGPPeer) { p.ConnectTime = &second }), true},
		"graceful restart":  {peer(func(p *config.BGPPeer) { p.GracefulRestart = true }), true},
		"dual stack":        {peer(func(p *config.BGPPeer) { p.DualStack = true }), true},
		"dynamic AS":        {peer(func(p *config.BGPPeer) { p.DynamicASN = "external" }), true},
		"unnumbered":        {peer(func(p *config.BGPPeer) { p.Interface = "eth0" }), true},
		"local AS":          {peer(func(p *config.BGPPeer) { p.LocalASN = 64512 }), true},
		"IPv6 by all":       {advertised(config.BGPAdvertisement{}), true},
		"IPv6 by name":      {advertised(config.BGPAdvertisement{Pools: []string{"six"}}), true},
		"IPv6 by label":     {advertised(config.BGPAdvertisement{PoolSelectors: []lb.Selector{{MatchLabels: map[string]string{"v": "6"}}}}), true},
		"IPv6 of Layer 2":   {advertised(config.BGPAdvertisement{Pools: []string{"four"}}), false},
		"large community":   {advertised(config.BGPAdvertisement{Pools: []string{"four"}, Communities: []string{"large:1:2:3"}}), true},
		"named community":   {config.Objects{Communities: []config.CommunityList{{Aliases: []config.CommunityAlias{{Name: "a", Value: "large:1:2:3"}}}}}, true},
		"classic community": {config.Objects{Communities: []config.CommunityList{{Aliases: []config.CommunityAlias{{Name: "a", Value: "1:2"}}}}}, false},
	} {
		for mode, native := range map[string]bool{"": true, "native": true, "frr": false, "frr-k8s": false} {
			for _, both := range []bool{false, true} {
				f := &migrate.Facts{Cluster: &explain.Cluster{Namespace: "metallb-system", Objects: c.objects}, Workloads: []migrate.Workload{{
					Object: migrate.Object{Kind: "DaemonSet", Namespace: "metallb-system", Name: "metallb-speaker"}, Maker: migrate.MetalLB, Component: "speaker",
					Env: map[string]string{"METALLB_BGP_TYPE": mode},
				}}}
				want := explain.Level("")
				if c.refused && native {
					want = explain.Warning
				}
				if both {
					f.Workloads = append(f.Workloads, migrate.Workload{Object: migrate.Object{Name: "speaker"}, Maker: migrate.BareLB, Component: "speaker"})
					if want != "" {
						want = explain.Broken
					}
				}
				if got := levels(migrate.Check(f))[migrate.RefusedByMetalLB]; got != want {
					t.Errorf("%s in mode %q, with BareLB %t: %q, want %q", name, mode, both, got, want)
				}
			}
		}
	}
}

// TestRights: whose roles are replaced, and by what.
func TestRights(t *testing.T) {
	for name, c := range map[string]struct {
		namespace, speaker, account string
		want                        explain.Level
	}{
		"from the chart":                    {"metallb-system", "metallb-speaker", "metallb-speaker", ""},
		"from the manifests":                {"metallb-system", "speaker", "speaker", explain.Warning},
		"from a release like its namespace": {"metallb-system", "metallb-system-speaker", "metallb-system-speaker", explain.Broken},
		"elsewhere":                         {"other", "speaker", "speaker", ""},
	} {
		w := migrate.Workload{
			Object: migrate.Object{Kind: "DaemonSet", Namespace: c.namespace, Name: c.speaker}, Maker: migrate.MetalLB, Component: "speaker", Account: c.account,
		}
		got := levels(migrate.Check(&migrate.Facts{Cluster: &explain.Cluster{Namespace: "metallb-system"}, Workloads: []migrate.Workload{w}}))
		if got[migrate.RightsReplaced] != c.want {
			t.Errorf("%s: %q, want %q", name, got[migrate.RightsReplaced], c.want)
		}
	}
}

// TestSpeakersMeet: by labels either way round, one key, one namespace, one port.
func TestSpeakersMeet(t *testing.T) {
	pod := map[string]string{"app": "metallb", "component": "speaker", "more": "x"}
	theirs := func(change func(*migrate.Workload)) *migrate.Facts {
		w := migrate.Workload{
			Object: migrate.Object{Kind: "DaemonSet", Namespace: "metallb-system", Name: "speaker-of-metallb"}, Maker: migrate.MetalLB, Component: "speaker",
			Labels: pod, Secret: "memberlist", Ports: []int{7946, 9120}, Env: map[string]string{"METALLB_ML_LABELS": "app==metallb, component=speaker"},
		}
		change(&w)
		return &migrate.Facts{Cluster: &explain.Cluster{Namespace: "metallb-system"}, Workloads: []migrate.Workload{w}}
	}
	for name, c := range map[string]struct {
		change func(*migrate.Workload)
		want   lb.Reason
	}{
		"both find both":     {func(*migrate.Workload) {}, ""},
		"ours find theirs":   {func(w *migrate.Workload) { w.Env["METALLB_ML_LABELS"] = "more=x" }, ""},
		"theirs find ours":   {func(w *migrate.Workload) { w.Labels = nil }, ""},
		"neither":            {func(w *migrate.Workload) { w.Labels, w.Env["METALLB_ML_LABELS"] = nil, "more=x" }, migrate.LabelsDiffer},
		"no membership":      {func(w *migrate.Workload) { w.Env = nil }, migrate.NoMembership},
		"by flag":            {func(w *migrate.Workload) { w.Env, w.Flags = nil, map[string]string{"ml-labels": "app=metallb"} }, ""},
		"another Secret":     {func(w *migrate.Workload) { w.Secret = "other" }, migrate.KeyDiffers},
		"another namespace":  {func(w *migrate.Workload) { w.Namespace = "other" }, migrate.OtherNamespace},
		"another port":       {func(w *migrate.Workload) { w.Flags = map[string]string{"ml-bindport": "7999"} }, migrate.FlagToCarry},
		"a flag of the past": {func(w *migrate.Workload) { w.Flags = map[string]string{"config": "config"} }, migrate.FlagUnknown},
	} {
		got := levels(migrate.Check(theirs(c.change)))
		if c.want != "" && got[c.want] == "" {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
		if c.want == "" && (got[migrate.LabelsDiffer] != "" || got[migrate.KeyDiffers] != "" || got[migrate.NoMembership] != "") {
			t.Errorf("%s: %v", name, got)
		}
	}
}
