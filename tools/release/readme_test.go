package main

import "testing"

// Each value has a row with the comments above and beside it.
func TestValueRows(t *testing.T) {
	got, err := valueRows([]byte(`# About the file.

# Above,
# in two lines.
a: 1 # beside
b:
  c: {d: "x|y", e: []}
  f: "" # a | <b>
# Of a section.
g:
  h: null # 1 or 2

i: [x]
`))
	want := "| `a` | `1` | Above, in two lines. beside |\n" +
		"| `b.c` | `{\"d\":\"x\\|y\",\"e\":[]}` |  |\n" +
		"| `b.f` | `\"\"` | a \\| &lt;b> |\n" +
		"| `g` | | Of a section. |\n" +
		"| `g.h` | `null` | 1 or 2 |\n" +
		"| `i` | `[\"x\"]` |  |\n"
	if err != nil || got != want {
		t.Errorf("%v\n%s\nnot\n%s", err, got, want)
	}
	for _, bad := range []string{"", "- a", "a: ["} {
		if _, err := valueRows([]byte(bad)); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

// The chart's README is generated from its values.
func TestChartReadme(t *testing.T) {
	rows, err := valueRows([]byte(read(t, root, "charts", "sealvol", "values.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	if read(t, root, "charts", "sealvol", "README.md") != readmeHead+rows {
		t.Error("charts/sealvol/README.md is not up to date: make generate")
	}
}
