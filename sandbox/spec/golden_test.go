package spec

import (
	"bytes"
	"encoding/json"
	"flag"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"os"

	"sallyport/policy/baseline"
)

var update = flag.Bool("update", false, "write the goldens anew; read the difference before you keep it")

// request is request.json of a golden: what was asked, and of which floor.
type request struct {
	Hardening  string          `json:"hardening"` // hardening.yaml
	Pod        PodConfig       `json:"pod"`
	Container  ContainerConfig `json:"container"`
	Mounts     []ResolvedMount `json:"mounts"`
	Namespaces Namespaces      `json:"namespaces"`
	Labels     Labels          `json:"labels"`
	SELinux    bool            `json:"seLinux"`
}

// TestGoldens: request.json, image.json, passwd and group give spec.json and notes.txt. The system calls
// of the seccomp profile are left out: seccomp has goldens of its own.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			read := func(name string) []byte {
				for _, f := range a.Files {
					if f.Name == name {
						return f.Data
					}
				}
				return nil
			}
			var req request
			strict(t, read("request.json"), &req)
			in := Input{
				Pod: req.Pod, PodID: "p1", Container: req.Container, ID: "c1", Passwd: read("passwd"), Group: read("group"),
				Mounts: req.Mounts, Namespaces: req.Namespaces, Labels: req.Labels, Host: host(),
			}
			in.Host.SELinux = req.SELinux
			strict(t, read("image.json"), &in.Image)
			if in.Floor, err = baseline.ParseFloor([]byte(req.Hardening)); err != nil {
				t.Fatal(err)
			}
			out, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			if found := baseline.Check(out.JSON, facts(in), in.Floor); len(found) > 0 && len(out.Refusals) == 0 {
				t.Errorf("Check() = %v, want none", found)
			}
			if s := out.Spec.Linux.Seccomp; s != nil {
				s.Syscalls = nil
			}
			spec, err := json.MarshalIndent(out.Spec, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			notes := strings.Join(out.Weakenings, "\n") + "\n"
			for _, r := range out.Refusals {
				notes += "REFUSED " + r.Knob + ": " + r.Msg + "\n"
			}
			for name, got := range map[string][]byte{"spec.json": append(spec, '\n'), "notes.txt": []byte(notes)} {
				if want := read(name); !bytes.Equal(got, want) && !*update {
					t.Errorf("%s of %s = %s\nwant %s", name, file, got, want)
				}
				a.Files = put(a.Files, name, got)
			}
			if *update {
				must(t, os.WriteFile(file, txtar.Format(a), 0o644))
			}
		})
	}
}

func put(files []txtar.File, name string, data []byte) []txtar.File {
	for i := range files {
		if files[i].Name == name {
			files[i].Data = data
			return files
		}
	}
	return append(files, txtar.File{Name: name, Data: data})
}

func strict(t *testing.T, data []byte, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("decode %s: %v", data, err)
	}
}
