package measure_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/lab/measure"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestRender(t *testing.T) {
	t.Parallel()
	tests := map[string][]measure.Row{
		"empty": nil,
		"narrow": {
			{Title: "Node responsibility", Layer2: "1 MAC", BGP: "3 next hops", Threshold: "1; 3", OK: true},
			{Title: "Load balancing", Layer2: "1 node", Threshold: "≥ 15 % each"},
		},
		"wide": {
			{
				Title: "Node responsibility", Layer2: "one node answers ARP: node2 (02:00:00:00:00:02)",
				BGP: "all nodes: 192.168.1.101, 192.168.1.102, 192.168.1.103", Threshold: "exactly one MAC; three next hops", OK: true,
			},
			{Title: "Failover time, link cut", Layer2: "412 ms", BGP: "2 871 ms", Threshold: "≤ 10 s; ≤ hold time 3 s", OK: true},
			{Title: "Averyveryverylongwordthatcannotbebrokenbetweenwordsbecauseithasnone", Layer2: "µ", BGP: "µ", Threshold: "none"},
		},
	}
	for name, rows := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got strings.Builder
			if err := measure.Render(&got, rows); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(got.String()) {
				if n := utf8.RuneCountInString(line) - 1; n > 100 {
					t.Errorf("a line of %d characters: %s", n, line)
				}
			}
			golden := filepath.Join("testdata", "table-"+name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTableHoldsIfEveryRowDoes(t *testing.T) {
	t.Parallel()
	ok, bad := measure.Row{OK: true}, measure.Row{}
	for name, test := range map[string]struct {
		rows []measure.Row
		want bool
	}{
		"no rows": {nil, false}, "all": {[]measure.Row{ok, ok}, true}, "one not": {[]measure.Row{ok, bad}, false},
	} {
		if got := measure.Holds(test.rows); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
