package lb_test

import (
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/lb"
)

func expr(key, op string, values ...string) lb.Selector {
	return lb.Selector{MatchExpressions: []lb.Requirement{{Key: key, Operator: op, Values: values}}}
}

func TestSelectorMatches(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": "", "example.org/zone": "a"}
	for name, c := range map[string]struct {
		sel  lb.Selector
		want bool
	}{
		"empty matches all":           {lb.Selector{}, true},
		"label":                       {lb.Selector{MatchLabels: map[string]string{"app": "web"}}, true},
		"label with another value":    {lb.Selector{MatchLabels: map[string]string{"app": "db"}}, false},
		"empty value is not absence":  {lb.Selector{MatchLabels: map[string]string{"missing": ""}}, false},
		"empty value":                 {lb.Selector{MatchLabels: map[string]string{"tier": ""}}, true},
		"all labels must match":       {lb.Selector{MatchLabels: map[string]string{"app": "web", "tier": "x"}}, false},
		"In":                          {expr("app", "In", "db", "web"), true},
		"In without the value":        {expr("app", "In", "db"), false},
		"In without the key":          {expr("missing", "In", ""), false},
		"NotIn":                       {expr("app", "NotIn", "db"), true},
		"NotIn with the value":        {expr("app", "NotIn", "db", "web"), false},
		"NotIn without the key":       {expr("missing", "NotIn", "web"), true},
		"Exists":                      {expr("tier", "Exists"), true},
		"Exists without the key":      {expr("missing", "Exists"), false},
		"DoesNotExist":                {expr("missing", "DoesNotExist"), true},
		"DoesNotExist with the key":   {expr("tier", "DoesNotExist"), false},
		"unknown operator":            {expr("app", "Like", "web"), false},
		"labels and expressions both": {lb.Selector{MatchLabels: map[string]string{"app": "web"}, MatchExpressions: expr("tier", "DoesNotExist").MatchExpressions}, false},
	} {
		if got := c.sel.Matches(labels); got != c.want {
			t.Errorf("%s: matches = %v", name, got)
		}
	}
}

func TestMatchesAny(t *testing.T) {
	labels := map[string]string{"app": "web"}
	web, db := expr("app", "In", "web"), expr("app", "In", "db")
	for name, c := range map[string]struct {
		sels []lb.Selector
		want bool
	}{
		"none":      {nil, true},
		"one of":    {[]lb.Selector{db, web}, true},
		"none of":   {[]lb.Selector{db}, false},
		"the empty": {[]lb.Selector{db, {}}, true},
	} {
		if got := lb.MatchesAny(c.sels, labels); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestSelectorValidate(t *testing.T) {
	two := func(a, b lb.Selector) lb.Selector {
		return lb.Selector{MatchExpressions: append(a.MatchExpressions, b.MatchExpressions...)}
	}
	for name, c := range map[string]struct {
		sel  lb.Selector
		want string // part of the error; "" for none
	}{
		"empty":                    {lb.Selector{}, ""},
		"labels":                   {lb.Selector{MatchLabels: map[string]string{"kubernetes.io/hostname": "node-1.example.org", "a": "", "A_b.c-1": "Z"}}, ""},
		"all operators":            {two(two(expr("a", "In", "x"), expr("b", "NotIn", "x", "y")), two(expr("c", "Exists"), expr("d", "DoesNotExist"))), ""},
		"one key twice":            {two(expr("a", "NotIn", "x"), expr("a", "NotIn", "y")), ""},
		"no key":                   {expr("", "Exists"), "matchExpressions[0].key"},
		"key with a space":         {expr("a b", "Exists"), "matchExpressions[0].key"},
		"key without a name":       {expr("example.org/", "Exists"), "matchExpressions[0].key"},
		"key without a domain":     {expr("/a", "Exists"), "matchExpressions[0].key"},
		"key with two slashes":     {expr("a/b/c", "Exists"), "matchExpressions[0].key"},
		"upper-case domain":        {expr("Example.org/a", "Exists"), "matchExpressions[0].key"},
		"empty part of a domain":   {expr("a..b/c", "Exists"), "matchExpressions[0].key"},
		"domain ending in a dash":  {expr("a-.b/c", "Exists"), "matchExpressions[0].key"},
		"unknown operator":         {expr("a", "in", "x"), `"in" is not In`},
		"In without values":        {expr("a", "In"), "needs at least one"},
		"NotIn without values":     {expr("a", "NotIn"), "needs at least one"},
		"Exists with values":       {expr("a", "Exists", "x"), "takes none"},
		"DoesNotExist with values": {expr("a", "DoesNotExist", "x"), "takes none"},
		"value twice":              {expr("a", "In", "x", "y", "x"), "duplicate definition of match expression value"},
		"value with a comma":       {expr("a", "In", "x,y"), "no label value"},
		"value too long":           {expr("a", "In", strings.Repeat("x", 64)), "no label value"},
		"longest value":            {expr("a", "In", strings.Repeat("x", 63)), ""},
		"requirement twice":        {two(expr("a", "In", "x", "y"), expr("a", "In", "y", "x")), "matchExpressions[1]"},
		"bad value of a label":     {lb.Selector{MatchLabels: map[string]string{"a": "-x"}}, "matchLabels"},
		"bad key of a label":       {lb.Selector{MatchLabels: map[string]string{"a!": "x"}}, "matchLabels"},
	} {
		err := c.sel.Validate()
		switch {
		case err == nil && c.want != "":
			t.Errorf("%s: accepted", name)
		case err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestSelectorString: two that print alike are taken for the same.
func TestSelectorString(t *testing.T) {
	a := lb.Selector{MatchLabels: map[string]string{"x": "1", "y": "2"}, MatchExpressions: expr("z", "In", "b", "a").MatchExpressions}
	b := lb.Selector{MatchLabels: map[string]string{"y": "2", "x": "1"}, MatchExpressions: expr("z", "In", "a", "b").MatchExpressions}
	if a.String() != b.String() {
		t.Errorf("%q and %q differ", a, b)
	}
	if c := expr("z", "NotIn", "a", "b"); c.String() == expr("z", "In", "a", "b").String() {
		t.Errorf("%q for two operators", c)
	}
}
