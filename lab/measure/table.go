package measure

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Row compares the two modes in one respect.
type Row struct {
	Title     string // as in the README: "Failover time"
	Layer2    string // what was measured; empty prints as "-"
	BGP       string
	Threshold string // what must hold, in words
	OK        bool   // it holds
}

// tableWidth is the longest line of a table in characters.
const tableWidth = 100

// Render prints rows as a table, at most 100 characters wide, with a last line
// that counts what holds. Long cells are broken between words.
func Render(w io.Writer, rows []Row) error {
	cells := [][]string{{"", "Layer 2", "BGP", "must be", "result"}}
	passed := 0
	for _, r := range rows {
		result := "FAIL"
		if r.OK {
			result = "PASS"
			passed++
		}
		cells = append(cells, []string{r.Title, dash(r.Layer2), dash(r.BGP), dash(r.Threshold), result})
	}
	widths := columnWidths(cells)
	var b strings.Builder
	rule := func(line string) {
		for i, width := range widths {
			b.WriteString(separator(i, line+"┼"+line) + strings.Repeat(line, width))
		}
		b.WriteString("\n")
	}
	for i, row := range cells {
		writeRow(&b, row, widths)
		if i == 0 {
			rule("─")
		}
	}
	rule("─")
	fmt.Fprintf(&b, "%d of %d rows hold: %s\n", passed, len(rows), verdict(rows))
	_, err := io.WriteString(w, b.String())
	return err
}

// Holds reports whether every row holds. A table without rows has shown nothing.
func Holds(rows []Row) bool {
	for _, r := range rows {
		if !r.OK {
			return false
		}
	}
	return len(rows) > 0
}

func verdict(rows []Row) string {
	if Holds(rows) {
		return "PASS"
	}
	return "FAIL"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// separator is what stands before column i.
func separator(i int, s string) string {
	if i == 0 {
		return ""
	}
	return s
}

// columnWidths are those of the longest cells, the widest columns made narrower
// until a line fits.
func columnWidths(rows [][]string) []int {
	widths := make([]int, len(rows[0]))
	total := 3 * (len(widths) - 1) // separators
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		total += widths[i]
	}
	for ; total > tableWidth; total-- {
		widest := 0
		for i, width := range widths {
			if width > widths[widest] {
				widest = i
			}
		}
		widths[widest]--
	}
	return widths
}

// writeRow writes one row as as many lines as its longest cell needs.
func writeRow(b *strings.Builder, row []string, widths []int) {
	lines := make([][]string, len(row))
	height := 1
	for i, cell := range row {
		lines[i] = breakLines(cell, widths[i])
		height = max(height, len(lines[i]))
	}
	for n := range height {
		var line strings.Builder
		for i := range row {
			text := ""
			if n < len(lines[i]) {
				text = lines[i][n]
			}
			line.WriteString(separator(i, " │ ") + text + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// breakLines breaks s between words into lines of at most width characters; a
// longer word is cut.
func breakLines(s string, width int) []string {
	var lines []string
	var line []rune
	for word := range strings.FieldsSeq(s) {
		rest := []rune(word)
		if len(line) > 0 && len(line)+1+len(rest) > width {
			lines, line = append(lines, string(line)), nil
		}
		if len(line) > 0 {
			line = append(line, ' ')
		}
		for len(rest) > width {
			lines, rest = append(lines, string(rest[:width])), rest[width:]
		}
		line = append(line, rest...)
	}
	return append(lines, string(line))
}
