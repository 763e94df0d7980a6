package config

import "testing"

// A configuration file of every released version loads: what it says may change its default, never its name.
func TestGoldenConfigLoads(t *testing.T) {
	c, err := Load("testdata/v1.toml")
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != "/var/lib/sallyport" || c.Runtime.Default != "runc" || c.Limits.Pids != 4096 {
		t.Errorf("Load() = %+v, want what the file says", c)
	}
}
