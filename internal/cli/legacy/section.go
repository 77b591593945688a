package legacy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// section is a mapping of the text, from which what is understood is taken out. What is
// left over is noted.
type section struct {
	c    *converter
	path string
	m    map[string]any
}

func (c *converter) section(path string, m map[string]any) *section {
	return &section{c: c, path: path, m: m}
}

func (s *section) at(key string) string { return strings.TrimPrefix(s.path+"."+key, ".") }

func (s *section) note(key, format string, args ...any) {
	s.c.out.Notes = append(s.c.out.Notes, s.at(key)+": "+fmt.Sprintf(format, args...))
}

// take removes a value, and returns it; nil if it is not there.
func (s *section) take(key string) any {
	v := s.m[key]
	delete(s.m, key)
	return v
}

func (s *section) keys() []string { return slices.Sorted(maps.Keys(s.m)) }

// rest notes what nobody took.
func (s *section) rest() {
	for _, key := range s.keys() {
		s.note(key, "is not known, and is left out")
	}
}

func (s *section) wrong(key string, v any, want string) {
	s.note(key, "%v is not %s, and is left out", v, want)
}

func (s *section) sub(key string) *section {
	switch v := s.take(key).(type) {
	case nil:
		return nil
	case map[string]any:
		return s.c.section(s.at(key), v)
	default:
		s.wrong(key, v, "a mapping")
		return nil
	}
}

// list returns the mappings of a list.
func (s *section) list(key string) []*section {
	var out []*section
	for i, v := range s.array(key) {
		if m, ok := v.(map[string]any); ok {
			out = append(out, s.c.section(fmt.Sprintf("%s[%d]", s.at(key), i), m))
		} else {
			s.wrong(fmt.Sprintf("%s[%d]", key, i), v, "a mapping")
		}
	}
	return out
}

func (s *section) array(key string) []any {
	switch v := s.take(key).(type) {
	case nil:
		return nil
	case []any:
		return v
	default:
		s.wrong(key, v, "a list")
		return nil
	}
}

// text returns a scalar as it was written, near enough: a number or a truth value where
// MetalLB wanted a string was taken as one.
func (s *section) text(key string) string {
	v := s.take(key)
	switch v.(type) {
	case nil:
		return ""
	case map[string]any, []any:
		s.wrong(key, v, "a string")
		return ""
	}
	return scalar(v)
}

func scalar(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

func (s *section) texts(key string) []string {
	var out []string
	for i, v := range s.array(key) {
		switch v.(type) {
		case nil, map[string]any, []any:
			s.wrong(fmt.Sprintf("%s[%d]", key, i), v, "a string")
		default:
			out = append(out, scalar(v))
		}
	}
	return out
}

// number returns a whole number between 0 and most; 0 if there is none.
func (s *section) number(key string, most uint64) uint64 {
	n := s.optional(key, most)
	if n == nil {
		return 0
	}
	return *n
}

func (s *section) optional(key string, most uint64) *uint64 {
	v := s.take(key)
	if v == nil {
		return nil
	}
	n, err := strconv.ParseUint(scalar(v), 10, 64)
	if err != nil || n > most {
		s.wrong(key, v, fmt.Sprintf("a number up to %d", most))
		return nil
	}
	return &n
}

func (s *section) number32(key string) *uint32 {
	n := s.optional(key, 1<<32-1)
	if n == nil {
		return nil
	}
	v := uint32(*n)
	return &v
}

func (s *section) signed(key string) *int32 {
	n := s.optional(key, 128)
	if n == nil {
		return nil
	}
	v := int32(*n)
	return &v
}

func (s *section) boolean(key string) *bool {
	v := s.take(key)
	if v == nil {
		return nil
	}
	b, ok := v.(bool)
	if !ok {
		s.wrong(key, v, "true or false")
		return nil
	}
	return &b
}

func isTrue(b *bool) bool { return b != nil && *b }

func (s *section) duration(key string) *metav1.Duration {
	text := s.text(key)
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		s.wrong(key, text, "a duration such as 90s")
		return nil
	}
	return &metav1.Duration{Duration: d}
}

func (s *section) selectors(key string) []metav1.LabelSelector {
	var out []metav1.LabelSelector
	for _, x := range s.list(key) {
		var sel metav1.LabelSelector
		if labels := x.sub("match-labels"); labels != nil {
			sel.MatchLabels = map[string]string{}
			for _, k := range labels.keys() {
				sel.MatchLabels[k] = labels.text(k)
			}
		}
		for _, e := range x.list("match-expressions") {
			sel.MatchExpressions = append(sel.MatchExpressions, metav1.LabelSelectorRequirement{
				Key: e.text("key"), Operator: metav1.LabelSelectorOperator(e.text("operator")), Values: e.texts("values"),
			})
			e.rest()
		}
		x.rest()
		out = append(out, sel)
	}
	return out
}

// label returns name as an object's name can be (RFC 1123): lower-case letters, digits
// and dashes, 63 at most; "" if nothing is left.
func label(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	return strings.Trim(name[:min(len(name), 63)], "-.")
}
