package plugin

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/internal/core/explain"
)

// printer writes for people. What goes wrong in writing is noticed at the end.
type printer struct {
	w      io.Writer
	colour bool
}

// newPrinter returns a printer to the command's output. It uses colour on a terminal
// alone, and not if NO_COLOR says so (no-color.org).
func newPrinter(cmd *cobra.Command) *printer {
	w := cmd.OutOrStdout()
	f, isFile := w.(*os.File)
	return &printer{w: w, colour: isFile && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(f)}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func (p *printer) line(format string, args ...any) {
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}

// title writes a heading.
func (p *printer) title(text string) { p.line("%s", p.paint("1", text)) }

// paint returns text in a colour or style, by its ANSI code.
func (p *printer) paint(code, text string) string {
	if !p.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// mark returns the word for a level, and the code of its colour.
func mark(l explain.Level) (word, code string) {
	switch l {
	case explain.Broken:
		return "BROKEN", "1;31"
	case explain.Warning:
		return "warning", "33"
	case explain.NotChecked:
		return "?", "36"
	case explain.Info:
		return "note", "0"
	case explain.OK:
		return "ok", "32"
	}
	return string(l), "0"
}

const (
	markWidth  = 8
	checkWidth = 18
)

// finding writes a Finding with its evidence and, if it is not fine, what to do.
func (p *printer) finding(f explain.Finding) {
	word, code := mark(f.Level)
	what := f.What
	if f.Reason != "" {
		what += " [" + string(f.Reason) + "]"
	}
	p.line("%s %s %s", p.paint(code, pad(word, markWidth)), pad(f.Check, checkWidth), what)
	indent := strings.Repeat(" ", markWidth+checkWidth+2)
	for _, e := range f.Evidence {
		for l := range strings.SplitSeq(strings.TrimSpace(e), "\n") {
			p.line("%s- %s", indent, l)
		}
	}
	if f.Remedy != "" && f.Level != explain.OK {
		p.line("%s→ %s", indent, f.Remedy)
	}
}

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// table writes rows in columns under a head. A column in which no row has anything is
// left out.
func (p *printer) table(head []string, rows [][]string) {
	width := make([]int, len(head))
	used := make([]bool, len(head))
	for _, row := range rows {
		for i, cell := range row {
			used[i] = used[i] || cell != ""
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	write := func(row []string, style string) {
		var cells []string
		for i, cell := range row {
			if used[i] {
				cells = append(cells, pad(cell, max(width[i], utf8.RuneCountInString(head[i]))))
			}
		}
		p.line("%s", p.paint(style, strings.TrimRight(strings.Join(cells, "   "), " ")))
	}
	if len(rows) == 0 {
		p.line("none")
		return
	}
	write(head, "2")
	for _, row := range rows {
		write(row, "")
	}
}

// print writes v as JSON or YAML if that is asked for, else calls text.
func (o *options) print(cmd *cobra.Command, v any, text func(*printer)) error {
	switch o.output {
	case "json":
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	case "yaml":
		b, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(b)
		return err
	}
	text(newPrinter(cmd))
	return nil
}

// conclusion writes the first broken link and what to do about it or, if none is, the first
// warning.
func (p *printer) conclusion(first, warned *explain.Finding, next []string) {
	p.line("")
	if first == nil {
		p.line("%s", p.paint("1;32", "No broken link was found, as far as it can be seen from here."))
		if warned != nil {
			p.line("First warning: %s: %s", warned.Check, warned.Reason)
		}
		for _, n := range next {
			p.line("  next: %s", n)
		}
		return
	}
	p.line("%s %s: %s", p.paint("1;31", "First broken link:"), first.Check, first.Reason)
	p.line("  %s", first.What)
	if first.Remedy != "" {
		p.line("  → %s", first.Remedy)
	}
}
