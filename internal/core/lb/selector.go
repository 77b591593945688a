package lb

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Selector is a Kubernetes label selector: all of its requirements must hold. The
// zero Selector matches everything.
type Selector struct {
	MatchLabels      map[string]string
	MatchExpressions []Requirement
}

// Requirement is one matchExpression of a Selector.
type Requirement struct {
	Key      string
	Operator string // In, NotIn, Exists or DoesNotExist
	Values   []string
}

// Matches reports whether labels satisfy every requirement of s.
func (s Selector) Matches(labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	for _, r := range s.MatchExpressions {
		if !r.matches(labels) {
			return false
		}
	}
	return true
}

func (r Requirement) matches(labels map[string]string) bool {
	have, ok := labels[r.Key]
	switch r.Operator {
	case "In":
		return ok && slices.Contains(r.Values, have)
	case "NotIn":
		return !ok || !slices.Contains(r.Values, have)
	case "Exists":
		return ok
	case "DoesNotExist":
		return !ok
	}
	return false // Validate refuses it
}

// Validate says what is wrong with s, or returns nil: keys and values that no label
// can have, an unknown operator, values that the operator does not take or lacks,
// a value or requirement given twice.
func (s Selector) Validate() error {
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		if !isLabelKey(k) || !isLabelValue(s.MatchLabels[k]) {
			return fmt.Errorf("matchLabels: %q: %q is no label that an object can have", k, s.MatchLabels[k])
		}
	}
	for i, r := range s.MatchExpressions {
		field := fmt.Sprintf("matchExpressions[%d]", i)
		if !isLabelKey(r.Key) {
			return fmt.Errorf("%s.key: %q is no label key", field, r.Key)
		}
		switch r.Operator {
		case "In", "NotIn":
			if len(r.Values) == 0 {
				return fmt.Errorf("%s.values: %s needs at least one", field, r.Operator)
			}
		case "Exists", "DoesNotExist":
			if len(r.Values) != 0 {
				return fmt.Errorf("%s.values: %s takes none", field, r.Operator)
			}
		default:
			return fmt.Errorf("%s.operator: %q is not In, NotIn, Exists or DoesNotExist", field, r.Operator)
		}
		for _, v := range r.Values {
			if !isLabelValue(v) {
				return fmt.Errorf("%s.values: %q is no label value", field, v)
			}
		}
		vals := slices.Sorted(slices.Values(r.Values))
		if len(slices.Compact(vals)) != len(r.Values) {
			return fmt.Errorf("%s.values: duplicate definition of match expression value in label selector", field)
		}
		for _, o := range s.MatchExpressions[:i] {
			if o.String() == r.String() {
				return fmt.Errorf("%s: duplicate definition of match expressions %q", field, r)
			}
		}
	}
	return nil
}

// String returns a canonical form: equal strings are equal requirements.
func (r Requirement) String() string {
	vals := slices.Sorted(slices.Values(r.Values))
	return r.Key + " " + r.Operator + " (" + strings.Join(vals, ",") + ")"
}

// String returns a canonical form: equal strings are equal selectors.
func (s Selector) String() string {
	parts := make([]string, 0, len(s.MatchLabels)+len(s.MatchExpressions))
	for k, v := range s.MatchLabels {
		parts = append(parts, k+"="+v)
	}
	for _, r := range s.MatchExpressions {
		parts = append(parts, r.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// isLabelKey reports whether key is a name, or a DNS subdomain, a slash and a name.
func isLabelKey(key string) bool {
	domain, name, ok := strings.Cut(key, "/")
	if !ok {
		return key != "" && isLabelValue(key)
	}
	if domain == "" || len(domain) > 253 || strings.ToLower(domain) != domain || strings.Contains(domain, "_") {
		return false
	}
	for part := range strings.SplitSeq(domain, ".") {
		if part == "" || !hasLabelSyntax(part) {
			return false
		}
	}
	return name != "" && isLabelValue(name)
}

// isLabelValue reports whether v is what a label may be set to: empty, or at most
// 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends.
func isLabelValue(v string) bool {
	return v == "" || len(v) <= 63 && hasLabelSyntax(v)
}

func hasLabelSyntax(v string) bool {
	for i := range len(v) {
		c := v[i]
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if inner := i > 0 && i < len(v)-1; !alnum && (!inner || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return true
}

// MatchesAny reports whether one of sels matches labels. No selectors match everything.
func MatchesAny(sels []Selector, labels map[string]string) bool {
	return len(sels) == 0 || slices.ContainsFunc(sels, func(s Selector) bool { return s.Matches(labels) })
}
