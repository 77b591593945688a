package kubeproxy_test

import (
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/kubeproxy"
)

// TestJudge gives a Judge answers (w well, i ill, . silence), and wants a sign for each:
// - not watched, H healthy, D healthy but doubted, X not healthy.
func TestJudge(t *testing.T) {
	dots, aitches := strings.Repeat(".", 13), strings.Repeat("H", 13)
	for name, c := range map[string]struct {
		required      bool
		answers, want string
	}{
		"never there":                        {false, strings.Repeat(".", 40), strings.Repeat("-", 40)},
		"there later":                        {false, "..w.", "--HH"},
		"ill when first seen":                {false, "..iiiwww", "--HDXXHH"},
		"well":                               {false, "wwww", "HHHH"},
		"one missed, one ill":                {false, "w.wiw", "HHHHH"},
		"ill":                                {false, "wiiii", "HHDXX"},
		"not twice in a row, but not well":   {false, "wi.i.i", "HHHDDX"},
		"a restart":                          {false, "w" + dots + "w", "H" + aitches + "H"},
		"gone":                               {false, "w" + dots + "...", "H" + aitches + "DXX"},
		"gone, and back":                     {false, "w" + dots + "..w.ww.", "H" + aitches + "DXXXXHH"},
		"required and well":                  {true, "w.w", "HHH"},
		"required, and not there at first":   {true, "..ww", "XXXH"},
		"required, and ill at first":         {true, "iww", "XXH"},
		"required, well only now and then":   {true, ".w.w.ww", "XXXXXXH"},
		"required and gone":                  {true, "w" + dots + "..", "H" + aitches + "DX"},
		"silence before it was seen is none": {false, dots + "...w.", strings.Repeat("-", 16) + "HH"},
	} {
		j := kubeproxy.Judge{Required: c.required}
		var got strings.Builder
		for _, a := range c.answers {
			st := j.Take(map[rune]kubeproxy.Answer{'w': kubeproxy.Well, 'i': kubeproxy.Ill, '.': kubeproxy.Silence}[a])
			sign := "H"
			switch {
			case !st.Watched && (!st.Healthy || st.Doubted):
				sign = "?"
			case !st.Watched:
				sign = "-"
			case !st.Healthy && !st.Doubted:
				sign = "?"
			case !st.Healthy:
				sign = "X"
			case st.Doubted:
				sign = "D"
			}
			got.WriteString(sign)
		}
		if got.String() != c.want {
			t.Errorf("%s: after %s\n got %s\nwant %s", name, c.answers, got.String(), c.want)
		}
	}
}
