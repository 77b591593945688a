package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/explain"
)

// Ignored are the flags of MetalLB that BareLB takes and that have no effect, by component,
// and why.
//
//nolint:gochecknoglobals // it is never changed
var Ignored = map[string]map[string]string{
	"controller": {"webhook-http2": "the webhook speaks HTTP/1.1"},
	"speaker":    {"frrk8s-namespace": noFRR, "frrk8s-secret-passthrough": noFRR, "bgp-debounce-timeout": noFRR},
}

const noFRR = "BGP is in the speaker itself: there is no FRR"

// Known are the flags of MetalLB that mean the same here, by component.
//
//nolint:gochecknoglobals // it is never changed
var Known = map[string][]string{
	"controller": {
		"port", "namespace", "ml-secret-name", "deployment", "pod-name", "log-level", "pprof-bind-address", "health-probe-port", "lb-class",
		"tls-min-version", "tls-cipher-suites", "tls-curve-preferences", "metrics-cert-dir",
		"webhook-mode", "webhook-secret", "cert-dir", "cert-service-name", "disable-cert-rotation",
	},
	"speaker": {
		"port", "namespace", "host", "ml-bindaddr", "ml-bindport", "ml-labels", "ml-secret-key-path", "ml-wan-config", "node-name", "pod-name", "log-level",
		"pprof-bind-address", "health-probe-port", "lb-class", "ignore-exclude-lb", "tls-min-version", "tls-cipher-suites", "tls-curve-preferences", "metrics-cert-dir",
	},
}

// decisive are the settings that a fleet must agree on: by the flag, the variable that
// stands for it, the default and what comes of a difference.
//
//nolint:gochecknoglobals // it is never changed
var decisive = []struct{ flag, env, def, without string }{
	{"lb-class", "", "", "BareLB serves other Services than MetalLB"},
	{"ignore-exclude-lb", "", "false", "the two disagree on which nodes may announce"},
	{"ml-bindport", "METALLB_ML_BIND_PORT", "7946", "speakers of the two do not meet"},
	{"ml-wan-config", "", "false", "BareLB's speakers call nodes dead sooner"},
	{"health-probe-port", "", "17472", "probes and tools ask the wrong port"},
	{"metrics-cert-dir", "", "", "the metrics server signs its own certificate"},
	{"tls-min-version", "", "VersionTLS13", "the metrics server has another lowest TLS version"},
}

// settings compares flags and variables.
func settings(f *Facts) []explain.Finding {
	const check = "settings"
	if gap := f.unknown(check, explain.FromWorkloads); gap != nil {
		return gap
	}
	var out []explain.Finding
	for _, component := range []string{"controller", "speaker"} {
		for _, w := range f.of(MetalLB, component) {
			var ours *Workload
			if all := f.of(BareLB, component); len(all) > 0 {
				ours = all[0]
			}
			out = append(out, carry(w, ours)...)
			out = append(out, flags(w)...)
			out = append(out, variables(w)...)
		}
	}
	if len(out) == 0 {
		out = fine(check, "MetalLB's flags and variables are the defaults, or mean the same here")
	}
	return out
}

// carry says which settings BareLB must be given too, or has otherwise.
func carry(theirs, ours *Workload) []explain.Finding {
	var out []explain.Finding
	for _, d := range decisive {
		if !slices.Contains(Known[theirs.Component], d.flag) {
			continue
		}
		want := theirs.setting(d.flag, d.env, d.def)
		at := fmt.Sprintf("%s: --%s=%s", theirs, d.flag, want)
		switch {
		case ours == nil && want != d.def:
			out = append(out, say(explain.Warning, "settings", FlagToCarry, "BareLB's %s needs --%s=%s too, or %s", theirs.Component, d.flag, want, d.without).seen(at).
				remedy("add the flag to its args"))
		case ours != nil && ours.setting(d.flag, d.env, d.def) != want:
			level := explain.Warning
			if d.flag == "lb-class" || d.flag == "ignore-exclude-lb" || d.flag == "ml-bindport" {
				level = explain.Broken
			}
			out = append(out, say(level, "settings", FlagDiffers, "--%s differs: %s", d.flag, d.without).
				seen(at, fmt.Sprintf("%s: --%s=%s", ours, d.flag, ours.setting(d.flag, d.env, d.def))).remedy("make them agree before nodes are moved"))
		}
	}
	return out
}

func flags(w *Workload) []explain.Finding {
	var out []explain.Finding
	for _, name := range slices.Sorted(maps.Keys(w.Flags)) {
		at := fmt.Sprintf("%s: args: --%s=%s", w, name, w.Flags[name])
		if why, ok := Ignored[w.Component][name]; ok {
			out = append(out, explain.Finding(say(explain.Info, "settings", FlagIgnored, "--%s has no effect: %s", name, why).seen(at)))
		} else if !slices.Contains(Known[w.Component], name) {
			out = append(out, say(explain.Warning, "settings", FlagUnknown, "BareLB has no flag --%s, and would not start with it", name).seen(at).
				remedy("leave it out of BareLB's args"))
		}
	}
	return out
}

// variables looks for those that mean nothing here.
func variables(w *Workload) []explain.Finding {
	var out []explain.Finding
	for _, name := range slices.Sorted(maps.Keys(w.Env)) {
		if name == "METALLB_BGP_TYPE" || name == "METALLB_BGP_DEBOUNCE_TIMEOUT" || name == "FRRK8S_NAMESPACE" || strings.HasPrefix(name, "FRR_") {
			out = append(out, explain.Finding(say(explain.Info, "settings", FlagIgnored, "%s has no effect: %s", name, noFRR).seen(fmt.Sprintf("%s: env %s: %s", w, name, w.Env[name]))))
		}
	}
	return out
}
