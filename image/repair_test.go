package image

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kill is the end of a daemon that has no time to close its store.
func (e *env) kill() {
	e.t.Helper()
	e.storage.Free()
	e.unlock()
}

// cut is a power cut and the next start: another boot, and nothing said that the store was closed.
func (e *env) cut() {
	e.t.Helper()
	e.kill()
	if err := os.WriteFile(e.path("state"), []byte("open 11111111-2222-3333-4444-555555555555\n"), 0o600); err != nil {
		e.t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(e.opts.RunRoot, "checked")); err != nil {
		e.t.Fatal(err)
	}
	e.open()
}

func only(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err == nil && len(found) != 1 {
		err = errors.New(pattern + ": want one, found " + strings.Join(found, " "))
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

func blank(pattern string) error {
	at, err := only(pattern)
	if err != nil {
		return err
	}
	return os.WriteFile(at, nil, 0o600)
}

// TestUncleanStop breaks one thing at a time in a store. After a power cut the image is gone when the store
// is open, nothing of it is left, and a pull brings it back whole; after a clean stop, or when the daemon
// alone was killed, nothing is looked at.
func TestUncleanStop(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(e *env, diff string) error
		found bool // by the check at the start
	}{
		{"nothing", func(*env, string) error { return nil }, false},
		{"a byte of a layer", func(_ *env, diff string) error { flip(t, filepath.Join(diff, "bin/app")); return nil }, false}, // at first use
		{"record torn", func(e *env, _ string) error {
			at, err := only(e.path("images", "*", "*", "record.json"))
			if err != nil {
				return err
			}
			return os.Truncate(at, 100)
		}, true},
		{"record empty", func(e *env, _ string) error { return blank(e.path("images", "*", "*", "record.json")) }, true},
		{"evidence torn", func(e *env, _ string) error { return blank(e.path("images", "*", "*", "evidence-*.json")) }, true},
		{"manifest gone", func(e *env, _ string) error {
			id := e.List()[0].ID
			key := manifestKey(e.index.records(id)[0].Instance)
			names, err := os.ReadDir(e.path("storage", "overlay-images", id.Hex()))
			if err != nil || len(names) == 0 {
				return errors.Join(err, errors.New("no big data"))
			}
			for _, n := range names { // the library writes names in base64
				b, err := os.ReadFile(e.path("storage", "overlay-images", id.Hex(), n.Name()))
				if err != nil {
					return err
				}
				if want, err := e.storage.ImageBigData(id.Hex(), key); err == nil && string(b) == string(want) {
					if err := os.Remove(e.path("storage", "overlay-images", id.Hex(), n.Name())); err != nil {
						return err
					}
				}
			}
			return nil
		}, true},
		{"layer gone", func(_ *env, diff string) error { return os.RemoveAll(filepath.Dir(diff)) }, true},
		{"layer's root gone", func(_ *env, diff string) error { return os.RemoveAll(diff) }, true},
		{"layer's link empty", func(_ *env, diff string) error { return blank(filepath.Join(filepath.Dir(diff), "link")) }, true},
		{"layer's headers empty", func(e *env, diff string) error {
			return blank(e.path("storage", "overlay-layers", filepath.Base(filepath.Dir(diff))+".tar-split.gz"))
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, after := range []struct {
				name   string
				stop   func(e *env)
				checks bool
			}{
				{"clean stop", func(e *env) { e.reopen() }, false},
				{"killed", func(e *env) { e.kill(); e.open() }, false},
				{"power cut", (*env).cut, true},
			} {
				t.Run(after.name, func(t *testing.T) {
					e, name, img, diff := spoiled(t)
					var said strings.Builder
					e.opts.Log = slog.New(slog.NewTextHandler(&said, nil))
					if err := tc.spoil(e, diff); err != nil {
						t.Fatal(err)
					}
					after.stop(e)
					if e.unclean != after.checks || strings.Contains(said.String(), "stopped uncleanly") != after.checks {
						t.Errorf("unclean = %v, said %q", e.unclean, said.String())
					}
					if !after.checks {
						return
					}
					_, listed := e.Status(name)
					if listed == tc.found {
						t.Errorf("the image is listed: %v; problems %v", listed, e.Problems())
					}
					if left := e.leftovers(); tc.found && len(left) > 0 {
						t.Errorf("left: %v", left)
					}
					if tc.found {
						if len(e.Problems()) == 0 {
							t.Error("nobody is told")
						}
						e.mustPull(name)
						if err := e.CheckBytes(context.Background(), img); err != nil {
							t.Errorf("after the next pull: %v", err)
						}
					} else if err := e.CheckOnce(context.Background(), img); (err != nil) != (tc.name != "nothing") {
						t.Errorf("CheckOnce() = %v", err) // the boot has made every layer unchecked
					}
					said.Reset()
					e.kill()
					e.open()
					if e.unclean || strings.Contains(said.String(), "stopped uncleanly") {
						t.Errorf("checked once more in the same boot: %q", said.String())
					}
				})
			}
		})
	}
}

// TestUncleanInUse: what a container uses stays, the name is absent, and once the container is gone a pull
// mends the image.
func TestUncleanInUse(t *testing.T) {
	e, name, img, diff := spoiled(t)
	ctx := context.Background()
	if _, err := e.Mount(ctx, e.run(e.lookup(name, ""), "c1")); err != nil {
		t.Fatal(err)
	}
	if err := blank(filepath.Join(filepath.Dir(diff), "link")); err != nil {
		t.Fatal(err)
	}
	e.cut()
	if _, ok := e.Status(name); ok {
		t.Error("Status() answers by the name of a broken image")
	}
	if _, err := os.Stat(filepath.Join(diff, "bin/app")); err != nil {
		t.Errorf("a layer that a container uses was removed: %v", err)
	}
	_, err := e.pull(name, "team")
	wantErr(t, err, ErrCorrupt, "container c1 uses it")
	if err := e.Release("c1"); err != nil {
		t.Fatal(err)
	}
	e.mustPull(name)
	if err := e.CheckBytes(ctx, img); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(filepath.Join(filepath.Dir(diff), "link")); err != nil || st.Size() == 0 {
		t.Errorf("the layer was not made anew: %v", err)
	}
}

// TestForeignRecordSurvivesPowerCut: a record that is whole and not ours is no damage of a power cut.
func TestForeignRecordSurvivesPowerCut(t *testing.T) {
	e, name, _, _ := spoiled(t)
	at, err := only(e.path("images", "*", "*", "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(strings.Replace(string(b), `"team"`, `"evil"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	e.cut()
	if _, ok := e.Status(name); ok {
		t.Error("a forged record is an image")
	}
	if _, err := os.Stat(at); err != nil {
		t.Errorf("a forged record was removed: %v", err)
	}
}

// TestStateOfTheStore: only "clean", or this boot, is no reason to check; a check that is cut short is done
// again; the first background pass comes soon after an unclean stop.
func TestStateOfTheStore(t *testing.T) {
	e := newEnv(t)
	e.Store.scrubEvery = 24 * time.Hour
	read := func() string {
		b, err := os.ReadFile(e.path("state"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	mine := read()
	if !strings.HasPrefix(mine, stateOpen) || len(mine) < 40 {
		t.Errorf("state while open = %q", mine)
	}
	if err := e.Close(); err != nil || read() != stateClean {
		t.Errorf("state after Close() = %q, %v", read(), err)
	}
	for text, unclean := range map[string]bool{stateClean: false, mine: false, "": true, "clean": true, "open another\n": true} {
		s := &Store{root: e.root, scrubEvery: 24 * time.Hour}
		if err := os.WriteFile(s.path("state"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.takeState(); err != nil || s.unclean != unclean {
			t.Errorf("takeState() with %q: unclean = %v, %v", text, s.unclean, err)
		}
		want := mine
		if unclean {
			want = text // the check comes first
		}
		if read() != want {
			t.Errorf("state after takeState() with %q = %q, want %q", text, read(), want)
		}
		if wait := map[bool]time.Duration{true: scrubSoon, false: scrubFirst}[unclean]; s.firstScrub() != wait {
			t.Errorf("firstScrub() = %v, want %v", s.firstScrub(), wait)
		}
	}
	if err := os.Remove(e.path("state")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	s := &Store{root: e.root}
	if err := s.takeState(); err != nil || !s.unclean {
		t.Errorf("takeState() without a file: unclean = %v, %v", s.unclean, err)
	}
	e.open()
	e.open2(t)
}

// open2: a second daemon leaves the state of the first alone, and closing twice does nothing twice.
func (e *env) open2(t *testing.T) {
	t.Helper()
	if s, err := Open(e.opts); !errors.Is(err, ErrLocked) {
		t.Fatalf("Open() = %v, %v", s, err)
	}
	old := e.Store
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	e.open()
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(e.path("state")); string(b) == stateClean {
		t.Error("a store that is open is said to be closed")
	}
}
