package main

import (
	"encoding/json"
	"slices"
	"testing"
)

// TestCount reads a report as ginkgo writes it: a spec that failed unforeseen must be counted, whatever
// its state is called, and what focus left out must not.
func TestCount(t *testing.T) {
	const text = `[{"SpecReports": [
{"LeafNodeType": "BeforeSuite", "State": "passed"},
{"ContainerHierarchyTexts": ["a"], "LeafNodeType": "It", "LeafNodeText": "good", "State": "passed"},
{"ContainerHierarchyTexts": ["a"], "LeafNodeType": "It", "LeafNodeText": "late", "State": "passed"},
{"ContainerHierarchyTexts": ["a"], "LeafNodeType": "It", "LeafNodeText": "left out", "State": "skipped"},
{"ContainerHierarchyTexts": ["a"], "LeafNodeType": "It", "LeafNodeText": "lacks", "State": "skipped", "Failure": {"Message": "no NRI"}},
{"ContainerHierarchyTexts": ["a"], "LeafNodeType": "It", "LeafNodeText": "bad", "State": "failed", "RunTime": 1000000,
 "Failure": {"Message": "failed to create\nx: rpc error: code = Unknown desc = no\n  {\n", "Location": {"FileName": "/x/y.go", "LineNumber": 7}}},
{"ContainerHierarchyTexts": ["a"], "LeafNodeType": "It", "LeafNodeText": "foreseen", "State": "failed", "Failure": {"Message": "so"}},
{"ContainerHierarchyTexts": ["a"], "LeafNodeType": "It", "LeafNodeText": "mad", "State": "panicked", "Failure": {"Message": "nil"}}]}]`
	var reports []report
	if err := json.Unmarshal([]byte(text), &reports); err != nil {
		t.Fatal(err)
	}
	got := count(reports, expectations("# a foreseen | not this\na foreseen | not built\na late | not built\n"))
	if got.passed != 2 || got.failed != 3 || got.unexpected != 2 || got.skipped != 1 {
		t.Errorf("count() = %+v", got)
	}
	for _, want := range []string{
		"FAIL a bad: Unknown desc = no (failed, y.go:7 after 1ms)", "FAIL (expected: not built) a foreseen: so",
		"PASS (expected to fail: not built) a late", "SKIP a lacks: no NRI",
	} {
		if !slices.Contains(got.lines, want) {
			t.Errorf("lines = %q, want %q among them", got.lines, want)
		}
	}
}

func TestExpectedIsRead(t *testing.T) {
	if len(expectations(expected)) == 0 {
		t.Error("expectations() found nothing in expected.txt")
	}
}
