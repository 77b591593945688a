package kernellab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// plan is what the machine's init does.
type plan struct {
	Modules []string // files, in the order in which they can be loaded
	Test    string
}

const (
	planFile = "/kernellab.json"
	testFile = "/test" // this program
)

// archive is an initramfs in the making: cpio, "newc" (see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	bytes.Buffer
	has map[string]bool
}

// add adds an entry, and the folders above it.
func (a *archive) add(path string, mode uint32, device [2]uint32, content []byte) {
	if path == "/" || path == "." || a.has[path] {
		return
	}
	if path != "" {
		a.add(filepath.Dir(path), unix.S_IFDIR|0o755, [2]uint32{}, nil)
		a.has[path] = true
	}
	name := strings.TrimPrefix(path, "/")
	if path == "" {
		name = "TRAILER!!!"
	}
	fmt.Fprintf(a, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		len(a.has), mode, 0, 0, 1, 0, len(content), 0, 0, device[0], device[1], len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(content)
	a.pad()
}

func (a *archive) pad() {
	const align = 4
	a.Write(make([]byte, (align-a.Len()%align)%align))
}

// copy adds a file of this machine under a name, with /lib and the like where they
// really are.
func (a *archive) copy(file, as string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	for _, dir := range merged {
		if strings.HasPrefix(as, dir+"/") {
			as = "/usr" + as
		}
	}
	a.add(as, unix.S_IFREG|0o755, [2]uint32{}, content)
	return nil
}

// merged are the folders that Debian has in /usr.
var merged = []string{"/bin", "/sbin", "/lib", "/lib64"} //nolint:gochecknoglobals // a constant list

// program adds a program under a name, with the libraries that it is linked to.
func (a *archive) program(file, as string) error {
	out, err := exec.Command("ldd", file).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "not a dynamic executable") {
		return fmt.Errorf("list libraries of %s: %w: %s", file, err, out)
	}
	for word := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(word, "/") || strings.HasSuffix(word, ":") {
			continue
		}
		if err := a.copy(word, word); err != nil {
			return err
		}
	}
	return a.copy(file, as)
}

// pack makes the initramfs that runs one test.
func pack(kernel, test string, need Need) ([]byte, error) {
	a := &archive{has: map[string]bool{}}
	for _, dir := range merged {
		a.add(dir, unix.S_IFLNK|0o777, [2]uint32{}, []byte("usr"+dir))
	}
	a.add("/var/run", unix.S_IFLNK|0o777, [2]uint32{}, []byte("/run"))
	const console, tty = 5, 1
	a.add("/dev/console", unix.S_IFCHR|0o600, [2]uint32{console, tty}, nil)
	for _, dir := range []string{"/proc", "/sys", "/tmp", "/run", "/root"} {
		a.add(dir, unix.S_IFDIR|0o755, [2]uint32{}, nil)
	}
	for _, name := range need.Programs {
		file, err := exec.LookPath(name)
		if err == nil {
			err = a.program(file, file)
		}
		if err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	for _, root := range need.Files {
		if err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || d.IsDir():
				return err
			case strings.HasSuffix(file, ".so"):
				return a.program(file, file)
			}
			return a.copy(file, file)
		}); err != nil {
			return nil, fmt.Errorf("pack %s: %w", root, err)
		}
	}
	for file, text := range need.Texts {
		a.add(file, unix.S_IFREG|0o644, [2]uint32{}, []byte(text))
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if err := a.program(self, testFile); err != nil {
		return nil, err
	}
	a.add("/init", unix.S_IFLNK|0o777, [2]uint32{}, []byte(testFile))
	p := plan{Test: test}
	tree := filepath.Join(filepath.Dir(filepath.Dir(kernel)), "lib", "modules")
	files, err := modules(tree)
	if err != nil {
		return nil, err
	}
	for _, name := range need.Modules {
		if err := p.module(a, files, name); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	a.add(planFile, unix.S_IFREG|0o644, [2]uint32{}, text)
	a.add("", 0, [2]uint32{}, nil)
	return a.Bytes(), nil
}

// modules returns the files of all modules by their names.
func modules(tree string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); err == nil && ok && !d.IsDir() {
			all[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	return all, nil
}

// module adds a module after those that it depends on, which its section .modinfo tells.
// One that there is not is built in.
func (p *plan) module(a *archive, files map[string]string, name string) error {
	file, ok := files[strings.ReplaceAll(name, "-", "_")]
	inside := "/modules/" + name
	if !ok || a.has[inside] {
		return nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("pack module %s: %w", name, err)
	}
	if _, after, ok := bytes.Cut(content, []byte("\x00depends=")); ok {
		list, _, _ := bytes.Cut(after, []byte{0})
		for dep := range strings.SplitSeq(string(list), ",") {
			if err := p.module(a, files, dep); err != nil {
				return err
			}
		}
	}
	a.add(inside, unix.S_IFREG|0o644, [2]uint32{}, content)
	p.Modules = append(p.Modules, inside)
	return nil
}
