package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The links are absolute, because helm show readme and the pages of chart registries show the text
// without the sources.
const readmeHead = `<!-- make generate writes this file from values.yaml. Edit that file. -->
# Sealvol

Encrypted volumes for Kubernetes, sealed before they leave the node.

- [Install, upgrade, uninstall](https://github.com/sealvol/sealvol/blob/main/docs/install.md)
- [From a clone to a volume and back](https://github.com/sealvol/sealvol/blob/main/docs/install/try.md),
  command by command
- [Make a release](https://github.com/sealvol/sealvol/blob/main/docs/release.md): its chart pins its
  images by digest

` + "`helm test`" + ` creates a volume, writes a file into it and reads it back. ` + "`helm uninstall`" + ` refuses
while volumes are in use.

## Values

The chart refuses unknown values.

| Value | Default | Meaning |
|---|---|---|
`

// chartReadme writes the chart's README.md from its values and their comments.
func chartReadme(root string) error {
	dir := filepath.Join(root, "charts", "sealvol")
	text, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
	if err != nil {
		return err
	}
	rows, err := valueRows(text)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, "values.yaml"), err)
	}
	return os.WriteFile(filepath.Join(dir, "README.md"), []byte(readmeHead+rows), 0o644)
}

// valueRows writes a row for each value, and for each section that has a comment.
func valueRows(text []byte) (string, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return "", err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return "", errors.New("not a mapping")
	}
	var out strings.Builder
	err := mappingRows(&out, "", doc.Content[0])
	return out.String(), err
}

func mappingRows(out *strings.Builder, prefix string, m *yaml.Node) error {
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		name, about := prefix+key.Value, commentOf(key, value)
		if value.Kind == yaml.MappingNode && value.Style&yaml.FlowStyle == 0 {
			if about != "" {
				fmt.Fprintf(out, "| `%s` | | %s |\n", name, about)
			}
			if err := mappingRows(out, name+".", value); err != nil {
				return err
			}
			continue
		}
		var v any
		if err := value.Decode(&v); err != nil {
			return err
		}
		def, err := json.Marshal(v)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| `%s` | `%s` | %s |\n", name, strings.ReplaceAll(string(def), "|", `\|`), about)
	}
	return nil
}

// commentOf returns the comment above and beside a value. A paragraph before an empty line belongs
// to the file.
func commentOf(key, value *yaml.Node) string {
	above := key.HeadComment
	if i := strings.LastIndex(above, "\n\n"); i >= 0 {
		above = above[i+2:]
	}
	var words []string
	for line := range strings.Lines(above + "\n" + key.LineComment + "\n" + value.LineComment) {
		words = append(words, strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "#"))...)
	}
	return strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(strings.Join(words, " "))
}
