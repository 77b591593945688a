package e2e_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docMetric is a line of docs/metrics.md: type and sorted labels.
type docMetric struct{ kind, labels string }

// documentedMetrics returns what docs/metrics.md says of one component, by name.
func documentedMetrics(t *testing.T, component string) map[string]docMetric {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	must(t, err)
	_, section, _ := strings.Cut(string(text), "\n## "+component+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	out := map[string]docMetric{}
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (\\w+) \\| ([^|]*?) \\|")
	for _, m := range row.FindAllStringSubmatch(section, -1) {
		out[m[1]] = docMetric{m[2], strings.NewReplacer("`", "", " ", "").Replace(m[3])}
	}
	if len(out) == 0 {
		t.Fatalf("docs/metrics.md lists nothing for a %s", component)
	}
	return out
}

// wantDocumented holds what running processes of one component serve to docs/metrics.md:
// names, types and labels. May is what need not be there, because nothing is wrong.
func wantDocumented(t *testing.T, component string, may []string, pages ...string) {
	t.Helper()
	kind := regexp.MustCompile(`(?m)^# TYPE ((?:metallb|frrk8s|barelb)_\w+) (\w+)$`)
	sample := regexp.MustCompile(`(?m)^((?:metallb|frrk8s|barelb)_\w+)(?:\{(.*)\})? \S+$`)
	label := regexp.MustCompile(`(\w+)="(?:[^"\\]|\\.)*"`)
	served := map[string]docMetric{}
	for _, page := range pages {
		kinds := map[string]string{}
		for _, m := range kind.FindAllStringSubmatch(page, -1) {
			kinds[m[1]] = m[2]
		}
		for _, m := range sample.FindAllStringSubmatch(page, -1) {
			name := m[1]
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				if whole := strings.TrimSuffix(name, part); kinds[whole] == "histogram" {
					name = whole
				}
			}
			var labels []string
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "le" {
					labels = append(labels, l[1])
				}
			}
			slices.Sort(labels)
			is := docMetric{kinds[name], strings.Join(labels, ",")}
			if was, ok := served[name]; ok && was != is {
				t.Errorf("%s is %v and %v", name, was, is)
			}
			served[name] = is
		}
	}
	doc := documentedMetrics(t, component)
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		if is, ok := served[name]; !ok && !slices.Contains(may, name) {
			t.Errorf("a %s does not serve %s", component, name)
		} else if ok && is != doc[name] {
			t.Errorf("a %s serves %s as %v, docs/metrics.md says %v", component, name, is, doc[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(served)) {
		if _, ok := doc[name]; !ok {
			t.Errorf("a %s serves %s, of which docs/metrics.md says nothing", component, name)
		}
	}
}
