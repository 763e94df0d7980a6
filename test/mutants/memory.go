package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// memory remembers mutants that were killed, as empty files named by all that the result depends on.
type memory struct {
	dir    string            // "" remembers nothing
	inputs map[string]string // of a test package: its hash, computed once
}

// of is the key of a guard's result, and whether it is known to be killed. What cannot be hashed is not
// known.
func (m memory) of(g guard) (key string, known bool) {
	if m.dir == "" {
		return "", false
	}
	in, ok := m.inputs[g.pkg]
	if !ok {
		in = inputsOf(g.pkg)
		m.inputs[g.pkg] = in
	}
	if in == "" {
		return "", false
	}
	key = fmt.Sprintf("%x", sha256.Sum256([]byte(fmt.Sprintf("%s %q", in, g))))
	_, err := os.Stat(filepath.Join(m.dir, key))
	return key, err == nil
}

func (m memory) keep(mu mutant) {
	if m.dir == "" || mu.key == "" {
		return
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return // it is asked again
	}
	_ = os.WriteFile(filepath.Join(m.dir, mu.key), nil, 0o644)
}

// inputsOf hashes what a package's tests are built from and read: go.mod, go.sum, and the folders, whole,
// of every package of ours that they import; for tests of programs (test/...), the whole tree.
func inputsOf(pkg string) string {
	var dirs []string
	if strings.HasPrefix(pkg, "./test/") || strings.HasPrefix(pkg, "./cmd/") || strings.HasPrefix(pkg, "./security") {
		dirs = []string{"."}
	} else {
		out, err := exec.Command("go", "list", "-deps", "-test", "-f", "{{if and .Module (not .ForTest)}}{{if .Module.Main}}{{.Dir}}{{end}}{{end}}", pkg).Output()
		if err != nil {
			return ""
		}
		dirs = strings.Fields(string(out))
		own, err := filepath.Abs(pkg)
		if err != nil {
			return ""
		}
		if dirs = append(dirs, own, "cmd/sallyport-init"); strings.HasPrefix(pkg, "./sandbox") {
			dirs = append(dirs, "cmd") // its tests build the helper
		}
	}
	slices.Sort(dirs)
	here, err := os.Getwd()
	if err != nil {
		return ""
	}
	text := pkg == "./test/docs" || strings.HasPrefix(pkg, "./security") // tests of the pages too
	h := sha256.New()
	for _, dir := range slices.Compact(dirs) {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case e.IsDir() && (e.Name() == ".git" || e.Name() == ".deps" || e.Name() == "bin"):
				return fs.SkipDir
			case !e.Type().IsRegular() || e.Name() == "guards.txt" || !text && filepath.Ext(path) == ".md":
				return nil
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			fmt.Fprintf(h, "\n%s\n", strings.TrimPrefix(path, here+"/"))
			_, err = io.Copy(h, f)
			return err
		})
		if err != nil {
			return ""
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return ""
		}
		h.Write(text)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
