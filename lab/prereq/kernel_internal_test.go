package prereq

import "testing"

func TestKernelOf(t *testing.T) {
	t.Parallel()
	said := "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Breaks: other\n"
	if got := kernelOf(said); got != "linux-image-6.1.0-56-cloud-amd64" {
		t.Errorf("kernel %q", got)
	}
	if got := kernelOf("E: No packages found\n"); got != "" {
		t.Errorf("kernel %q of nothing", got)
	}
}
