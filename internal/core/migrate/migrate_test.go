package migrate_test

import (
	"testing"

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
			Labels: pod, Secret: "memberlist", Ports: []int{7946, 9120}, Grace: 2, Env: map[string]string{"METALLB_ML_LABELS": "app==metallb, component=speaker"},
		}
		change(&w)
		return &migrate.Facts{Cluster: &explain.Cluster{Namespace: "metallb-system"}, Workloads: []migrate.Workload{w}}
	}
	for name, c := range map[string]struct {
		change func(*migrate.Workload)
		want   lb.Reason
	}{
		"both find both":       {func(*migrate.Workload) {}, ""},
		"ours find theirs":     {func(w *migrate.Workload) { w.Env["METALLB_ML_LABELS"] = "more=x" }, ""},
		"theirs find ours":     {func(w *migrate.Workload) { w.Labels = nil }, ""},
		"neither":              {func(w *migrate.Workload) { w.Labels, w.Env["METALLB_ML_LABELS"] = nil, "more=x" }, migrate.LabelsDiffer},
		"no membership":        {func(w *migrate.Workload) { w.Env = nil }, migrate.NoMembership},
		"by flag":              {func(w *migrate.Workload) { w.Env, w.Flags = nil, map[string]string{"ml-labels": "app=metallb"} }, ""},
		"another Secret":       {func(w *migrate.Workload) { w.Secret = "other" }, migrate.KeyDiffers},
		"another namespace":    {func(w *migrate.Workload) { w.Namespace = "other" }, migrate.OtherNamespace},
		"no word at departure": {func(w *migrate.Workload) { w.Grace = 0 }, migrate.NoTimeToLeave},
		"another port":         {func(w *migrate.Workload) { w.Flags = map[string]string{"ml-bindport": "7999"} }, migrate.FlagToCarry},
		"a flag of the past":   {func(w *migrate.Workload) { w.Flags = map[string]string{"config": "config"} }, migrate.FlagUnknown},
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
