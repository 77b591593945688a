package prereq_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/lab/prereq"
)

func TestMissing(t *testing.T) {
	got := prereq.Missing([]prereq.Tool{{Program: "sh", Package: "dash"}, {Program: "no-such-b", Package: "b"}, {Program: "/no/such", Package: "a"}, {Program: "no-such-c", Package: "b"}})
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestEnsure runs against a package manager that only takes notes.
func TestEnsure(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("SKIPPED: needs root")
	}
	const policy = "/usr/sbin/policy-rc.d"
	if _, err := os.Stat(policy); err == nil {
		t.Skip("SKIPPED: this machine has a service policy of its own")
	}
	dir := t.TempDir()
	tool, notes := filepath.Join(dir, "tool"), filepath.Join(dir, "notes")
	script := "#!/bin/sh\necho \"$@\" >>" + notes + "\n[ -x " + policy + " ] && echo held >>" + notes + "\ncase \"$*\" in *install*) touch " + tool + ";; esac\n"
	for _, name := range []string{"apt-get", "dpkg"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var said strings.Builder
	if err := prereq.Ensure(t.Context(), &said, []prereq.Tool{{Program: tool, Package: "some-package"}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(notes)
	if err != nil {
		t.Fatal(err)
	}
	want := "-q -o DPkg::Lock::Timeout=120 update\nheld\n-q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends some-package\nheld\n"
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(policy); err == nil {
		t.Error("the service policy was left behind")
	}
	if !strings.Contains(said.String(), "some-package") {
		t.Errorf("it did not say what it installs: %q", said.String())
	}
}
